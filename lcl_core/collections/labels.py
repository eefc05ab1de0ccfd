"""Labels of images: their types, filters by them, and an index that a filter is applied to. Imports no torch.

A value is a text in every record, and a type says how it is read:

    text    as it is
    number  a number as JSON writes it
    date    2020-01-31, or with a time 2020-01-31T12:30:00Z; without a zone, UTC
    set     several texts: a JSON list of them, or texts separated by semicolons

The type of a label is the one that is stated; else number, date or set where every value that is not blank is a number,
a date or a JSON list of texts; else text. ``split`` and ``source`` are texts.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lcl_core.collections.changes import read_list, read_set, write_value
from lcl_core.common.errors import UserError
from lcl_core.specs.corpus_jobs import RESERVED_LABELS, LabelType

# value or values; a number; {"gte"|"gt"|"lte"|"lt": bound}; {"any"|"all": values}; {"none": values}
LabelFilter = str | float | Sequence[str] | Mapping[str, Any]
Where = Mapping[str, LabelFilter]
BOUNDS = ("gte", "gt", "lte", "lt")
MEMBERS = ("any", "all")
EXCLUDED = "none"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_DATE = re.compile(_DAY + r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?")
_EPOCH, _DAY_SECONDS = datetime(1970, 1, 1, tzinfo=UTC), 86_400.0
_SHORT_FORMS = (
    'a value or a list of values, which are compared as they are written, {"none": [values]} to leave them out'
)
_NAMES: dict[LabelType, str] = {"text": "text", "number": "a number", "date": "a date", "set": "a set"}
_FORMS: dict[LabelType, str] = {
    "text": f"{_SHORT_FORMS}; for ranges or sets index it again with a type of the label in label_types",
    "number": f'{_SHORT_FORMS}, a number, or a range of gte, gt, lte and lt such as {{"gte": 1990, "lt": 2000}}',
    "date": f'{_SHORT_FORMS}, or a range of gte, gt, lte and lt such as {{"gte": "2020-01-31"}}; a date is written '
    "2020-01-31 or 2020-01-31T12:30:00Z",
    "set": 'a value, a list of values of which an image has any, or any of {"any": [values]}, {"all": [values]} and '
    '{"none": [values]}',
}


Scale = Literal["number", "date"]


def read_number(text: str) -> float | None:
    """None: the text is no number."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def read_date(text: str) -> float | None:
    """Seconds since 1970; None: the text is no date."""
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:  # such as a 13th month
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


_READERS: dict[Scale, Callable[[str], float | None]] = {"number": read_number, "date": read_date}
_INFERRED: dict[LabelType, Callable[[str], Any]] = {"number": read_number, "date": read_date, "set": read_list}


def infer_type(values: Iterable[str]) -> LabelType:
    """Of a label whose type is not stated."""
    written = [value for value in values if value.strip()]
    found = (name for name, read in _INFERRED.items() if all(read(value) is not None for value in written))
    return next(found, "text") if written else "text"


def choose_types(values: Mapping[str, Iterable[str]], stated: Mapping[str, LabelType]) -> dict[str, LabelType]:
    """Of a collection with these {label: values}: of labels that are no texts, or whose type is stated.

    Raises: UserError ``invalid_value`` for a value that is not of the type that is stated.
    """
    types: dict[str, LabelType] = {}
    for label, texts in values.items():
        if label in stated:
            for text in texts:
                check_value(label, text, stated[label], f"label_types.{label}")
            types[label] = stated[label]
        elif label not in RESERVED_LABELS and (inferred := infer_type(texts)) != "text":
            types[label] = inferred
    return types


def check_value(label: str, value: str | Sequence[str], kind: LabelType, field: str) -> None:
    """Raises: UserError ``invalid_value`` if a value, or a list of texts, is not of the type; a blank one is of any."""
    if isinstance(value, str):
        if kind not in _READERS or not value.strip() or _READERS[kind](value) is not None:
            return
        example = "1990 or -0.5" if kind == "number" else "2020-01-31 or 2020-01-31T12:30:00Z"
        what = f"{value!r} is no {kind}; write {example}"
    elif kind == "set":
        return
    else:
        what = "a list of texts is a set; give one value"
    message = (
        f"label {label!r} is {_NAMES[kind]} in this collection, and {what}, or give the label another type in the "
    )
    raise UserError(message + "label_types of an index run", field=field)


def stored_value(value: str | Sequence[str], kind: LabelType | None) -> str:
    """A value as it is in a record. Of a set it is a JSON list, however it was given: else the label would be text."""
    return write_value(read_set(value) if isinstance(value, str) and kind == "set" else value)


@dataclass(frozen=True, slots=True)
class LabelChange:
    """A change of the labels of images.

    Attributes:
        values: {label: its new value; None removes the label}.
        add, remove: {label: members}, of labels that are sets. A set without members is removed.
    """

    values: Mapping[str, str | Sequence[str] | None]
    add: Mapping[str, Sequence[str]]
    remove: Mapping[str, Sequence[str]]

    def check(self, types: Mapping[str, LabelType]) -> None:
        """Raises: UserError ``invalid_value``, naming the label, for a value or members that its type does not admit.

        Args:
            types: of the collection's labels; a label that is not among them may get any value.
        """
        for label, value in self.values.items():
            if value is not None and label in types:
                check_value(label, value, types[label], f"labels.{label}")
        for field, change in (("add", self.add), ("remove", self.remove)):
            for label in change:
                if (kind := types.get(label, "set")) != "set":
                    message = (
                        f"label {label!r} is {_NAMES[kind]} in this collection, so it has no members; give it a value "
                        "(labels), or the type set in the label_types of an index run"
                    )
                    raise UserError(message, field=f"{field}.{label}")

    def apply(self, labels: Mapping[str, str], types: Mapping[str, LabelType]) -> dict[str, str]:
        """The labels of one image after the change."""
        found = dict(labels)
        for label, value in self.values.items():
            found.pop(label, None)
            if value is not None:
                found[label] = stored_value(value, types.get(label))
        for label in dict.fromkeys((*self.add, *self.remove)):
            removed = set(self.remove.get(label, ()))
            members = [*read_set(found.pop(label, "")), *self.add.get(label, ())]
            if kept := [member for member in dict.fromkeys(members) if member not in removed]:
                found[label] = write_value(kept)
        return found


def parse_where(where: Where, types: Mapping[str, LabelType]) -> list[Condition]:
    """A filter of a request, for labels of these types: all conditions apply.

    Raises: UserError ``invalid_value``, listing the known labels, or naming label, type and the forms that it accepts.
    """
    conditions: list[Condition] = []
    for label, choice in where.items():
        if label not in types:
            known = ", ".join(sorted(types)) or "none"
            message = f"label {label!r} is not known in this collection; its labels: {known}"
            raise UserError(message, field=f"where.{label}")
        found = _parse_conditions(label, choice, types[label])
        if found is None:
            kind = types[label]
            message = f"label {label!r} is {_NAMES[kind]} in this collection; a filter of it is {_FORMS[kind]}"
            raise UserError(message, field=f"where.{label}")
        conditions += found
    return conditions


def _parse_conditions(label: str, choice: Any, kind: LabelType) -> list[Condition] | None:
    """None: the label has no such filter."""
    if isinstance(choice, str):
        choice = (choice,)
    if isinstance(choice, int | float):
        choice = {"gte": choice, "lte": choice}
        kind = "text" if kind == "date" else kind
    if not isinstance(choice, Mapping):
        texts = tuple(choice) if isinstance(choice, Iterable) else (None,)
        return [Condition(label, "any_of", texts)] if all(isinstance(each, str) for each in texts) else None
    found: list[Condition] = []
    bounds: dict[str, Any] = {}
    for name, value in choice.items():
        if value is None:
            continue
        if name in BOUNDS and kind in _READERS:
            bounds[name] = value
        elif name == EXCLUDED or (name in MEMBERS and kind == "set"):
            if not isinstance(value, list | tuple) or not value or not all(isinstance(each, str) for each in value):
                return None
            found.append(Condition(label, "all_of" if name == "all" else "any_of", tuple(value), name == EXCLUDED))
        else:
            return None
    if bounds and (kind == "number" or kind == "date"):
        if (interval := _parse_range(bounds, kind)) is None:
            return None
        found.append(Condition(label, "within", interval))
    return found or None


def _parse_range(bounds: Mapping[str, Any], scale: Scale) -> tuple[float, float] | None:
    """``low`` <= value < ``high``: an open bound is the next number above it."""
    low, high = -math.inf, math.inf
    for name, bound in bounds.items():
        ends = _bound(bound, scale)
        if ends is None:
            return None
        if name in ("gte", "gt"):
            low = max(low, ends[name == "gt"])
        else:
            high = min(high, ends[name == "lte"])
    return low, high


def _bound(bound: Any, scale: Scale) -> tuple[float, float] | None:
    """Where a bound begins, and the first number after it: a date without a time is the whole day."""
    if isinstance(bound, str):
        start = _READERS[scale](bound)
        if start is not None and scale == "date" and re.fullmatch(_DAY, bound):
            return start, start + _DAY_SECONDS
    else:
        known = scale == "number" and isinstance(bound, int | float) and not isinstance(bound, bool)
        start = float(bound) if known and abs(bound) <= sys.float_info.max else None
    return None if start is None else (start, math.nextafter(start, math.inf))


@dataclass(frozen=True, slots=True)
class Condition:
    """``test``: a method of LabelColumn, called with ``values``; ``excluded``: images that it finds are left out."""

    label: str
    test: Literal["any_of", "all_of", "within"]
    values: tuple[Any, ...]
    excluded: bool = False


@dataclass
class LabelColumn:
    """A label of all images. A condition is tested on its distinct values, not on the images.

    Attributes:
        codes: int32 [n], index into ``texts``, -1 where an image lacks the label.
    """

    texts: list[str]
    codes: np.ndarray
    kind: LabelType = "text"

    def counts(self, images: np.ndarray | None = None) -> dict[str, int]:
        """{text, of a set its member: number of these images that have it} (bool [n]; None: all): valid filters."""
        codes = self.codes if images is None else self.codes[images]
        found = np.bincount(codes + 1, minlength=len(self.texts) + 1)[1:]
        counts = dict(zip(self.texts, found.tolist(), strict=True))
        if self.kind == "set":
            counts = {member: int(found[owners].sum()) for member, owners in self._owners.items()}
        return {text: count for text, count in counts.items() if count}

    def any_of(self, *values: str) -> np.ndarray:
        """bool, of each text: whether it, or a member of the set, is one of these."""
        chosen = set(values)
        fits = np.fromiter((text in chosen for text in self.texts), dtype=bool, count=len(self.texts))
        if self.kind == "set":
            for value in chosen:
                fits[self._owners.get(value, [])] = True
        return fits

    def all_of(self, *values: str) -> np.ndarray:
        """bool, of each text: whether the set has all of these."""
        counts = np.zeros(len(self.texts), dtype=np.int64)
        for value in set(values):
            counts[self._owners.get(value, [])] += 1
        return counts == len(set(values))

    def within(self, low: float, high: float) -> np.ndarray:
        """bool, of each text: whether ``low`` <= its number < ``high``."""
        return (self._numbers >= low) & (self._numbers < high)

    @cached_property
    def _owners(self) -> dict[str, list[int]]:
        """{member of a set: the texts that have it}."""
        found: dict[str, list[int]] = {}
        for at, text in enumerate(self.texts):
            for member in read_set(text):
                found.setdefault(member, []).append(at)
        return found

    @cached_property
    def _numbers(self) -> np.ndarray:
        """f64, one for each text; NaN: it is none."""
        read = _READERS["date" if self.kind == "date" else "number"]
        numbers = (math.nan if (number := read(text)) is None else number for text in self.texts)
        return np.fromiter(numbers, dtype=np.float64, count=len(self.texts))


class LabelIndex:
    """Labels of ``count`` images. ``types``: {label: type}."""

    def __init__(self, columns: dict[str, LabelColumn], count: int) -> None:
        self.columns, self._count = columns, count
        self.types: dict[str, LabelType] = {label: column.kind for label, column in columns.items()}

    @classmethod
    def of(cls, images: Sequence[Mapping[str, str]], types: Mapping[str, LabelType]) -> LabelIndex:
        """From each image's {label: value}; a label without a type has the one that its values have."""
        builder = LabelIndexBuilder()
        for labels in images:
            builder.add(labels)
        columns = builder.columns()
        for label, column in columns.items():
            inferred = "text" if label in RESERVED_LABELS else infer_type(column.texts)
            column.kind = types.get(label, inferred)
        return cls(columns, len(images))

    def mask(self, conditions: Iterable[Condition]) -> np.ndarray:
        """bool [n]: images that every condition allows. Of a label that no image has, only an exclusion allows them."""
        allowed = np.ones(self._count, dtype=bool)
        for each in conditions:
            if (column := self.columns.get(each.label)) is not None:
                # the code of an absent label, -1, is the last
                fits = np.append(getattr(column, each.test)(*each.values), False)
                allowed &= fits[column.codes] != each.excluded
            elif not each.excluded:
                return np.zeros_like(allowed)
        return allowed

    def counts(self, images: np.ndarray | None = None) -> dict[str, dict[str, int]]:
        """{label: ``LabelColumn.counts``} among these images; ``images`` bool [n]; None: all."""
        found = {label: column.counts(images) for label, column in self.columns.items()}
        return {label: counts for label, counts in found.items() if counts}


class LabelIndexBuilder:
    """Collects the labels of images one by one: four bytes a label and image, and each distinct value."""

    def __init__(self) -> None:
        self._codes: dict[str, array[int]] = {}
        self._values: dict[str, dict[str, int]] = {}
        self._count = 0

    def add(self, labels: Mapping[str, str]) -> None:
        for label, value in labels.items():
            known = self._values.setdefault(label, {})
            codes = self._codes.setdefault(label, array("i"))
            codes.extend([-1] * (self._count - len(codes)))
            codes.append(known.setdefault(value, len(known)))
        self._count += 1

    def columns(self) -> dict[str, LabelColumn]:
        for codes in self._codes.values():
            codes.extend([-1] * (self._count - len(codes)))
        return {
            label: LabelColumn(list(known), np.array(self._codes[label], dtype=np.int32))
            for label, known in self._values.items()
        }
