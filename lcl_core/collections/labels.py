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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lcl_core.collections.records import read_list, read_set, write_value
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


@dataclass(frozen=True, slots=True)
class TextFilter:
    """The value, or a member of the set, is one of these; ``excluded``: neither is, or there is no value."""

    label: str
    values: tuple[str, ...]
    of_set: bool = False
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class RangeFilter:
    """``low`` <= value < ``high``: an open bound is the next number above it."""

    label: str
    scale: Scale
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class SetFilter:
    """The set has every value."""

    label: str
    values: tuple[str, ...]


Filter = tuple[TextFilter | RangeFilter | SetFilter, ...]  # all of them apply


class LabelTypes(BaseModel):
    """``types``: of the labels that are no texts or whose type is stated; ``stated``: those labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    types: dict[str, LabelType] = {}
    stated: tuple[str, ...] = ()

    def stated_types(self) -> dict[str, LabelType]:
        return {label: self.types[label] for label in self.stated}


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


def choose_types(values: Mapping[str, Iterable[str]], stated: Mapping[str, LabelType]) -> LabelTypes:
    """Of a collection with these {label: values}. Types that are stated of other labels are left out.

    Raises: UserError ``bad_label`` for a value that is not of the type that is stated.
    """
    types: dict[str, LabelType] = {}
    for label, texts in values.items():
        if label in stated:
            for text in texts:
                check_value(label, text, stated[label], f"label_types.{label}")
            types[label] = stated[label]
        elif label not in RESERVED_LABELS and (inferred := infer_type(texts)) != "text":
            types[label] = inferred
    return LabelTypes(types=types, stated=tuple(label for label in stated if label in types))


def check_value(label: str, value: str | Sequence[str], kind: LabelType, field: str) -> None:
    """Raises: UserError ``bad_label`` if a value, or a list of texts, is not of the type; a blank one is of any."""
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
    raise UserError(message + "label_types of an index run", code="bad_label", field=field)


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
        """Raises: UserError ``bad_label``, naming the label, for a value or members that its type does not admit.

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
                    raise UserError(message, code="bad_label", field=f"{field}.{label}")

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


def parse_where(where: Where, types: Mapping[str, LabelType]) -> Filter:
    """A filter of a request, for labels of these types.

    Raises: UserError ``unknown_label``, listing the known labels; ``bad_filter``, naming label, type and the forms that
        it accepts.
    """
    parts: list[TextFilter | RangeFilter | SetFilter] = []
    for label, choice in where.items():
        if label not in types:
            known = ", ".join(sorted(types)) or "none"
            message = f"label {label!r} is not known in this collection; its labels: {known}"
            raise UserError(message, code="unknown_label", field=f"where.{label}")
        found = _parse_filter(label, choice, types[label])
        if found is None:
            kind = types[label]
            message = f"label {label!r} is {_NAMES[kind]} in this collection; a filter of it is {_FORMS[kind]}"
            raise UserError(message, code="bad_filter", field=f"where.{label}")
        parts += found
    return tuple(parts)


def _parse_filter(label: str, choice: Any, kind: LabelType) -> list[TextFilter | RangeFilter | SetFilter] | None:
    """None: the label has no such filter."""
    if isinstance(choice, str):
        return [TextFilter(label, (choice,), kind == "set")]
    if isinstance(choice, int | float):
        choice = {"gte": choice, "lte": choice}
        kind = "text" if kind == "date" else kind
    if not isinstance(choice, Mapping):
        texts = tuple(dict.fromkeys(choice)) if isinstance(choice, Iterable) else (None,)
        return [TextFilter(label, texts, kind == "set")] if all(isinstance(each, str) for each in texts) else None
    found: list[TextFilter | RangeFilter | SetFilter] = []
    bounds: dict[str, Any] = {}
    for name, value in choice.items():
        if value is None:
            continue
        if name in BOUNDS and (kind == "number" or kind == "date"):
            bounds[name] = value
        elif name == EXCLUDED or (name in MEMBERS and kind == "set"):
            if (values := _listed_texts(value)) is None:
                return None
            found.append(
                SetFilter(label, values)
                if name == "all"
                else TextFilter(label, values, kind == "set", excluded=name == EXCLUDED)
            )
        else:
            return None
    if bounds and (kind == "number" or kind == "date"):
        if (parsed := _parse_range(label, bounds, kind)) is None:
            return None
        found.append(parsed)
    return found or None


def _parse_range(label: str, bounds: Mapping[str, Any], scale: Scale) -> RangeFilter | None:
    low, high = -math.inf, math.inf
    for name, bound in bounds.items():
        ends = _bound(bound, scale)
        if ends is None:
            return None
        if name in ("gte", "gt"):
            low = max(low, ends[name == "gt"])
        else:
            high = min(high, ends[name == "lte"])
    return RangeFilter(label, scale, low, high)


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


def _listed_texts(values: Any) -> tuple[str, ...] | None:
    """The different texts of a list that has some; None: it is none."""
    listed = isinstance(values, list | tuple) and values and all(isinstance(value, str) for value in values)
    return tuple(dict.fromkeys(values)) if listed else None


@dataclass(frozen=True, slots=True)
class _Members:
    """Members of the distinct values of a set: value ``owners[i]`` has ``texts[codes[i]]``, each member once."""

    texts: list[str]
    code_of: dict[str, int]
    owners: np.ndarray  # int64 [m]
    codes: np.ndarray  # int64 [m]

    @classmethod
    def of(cls, values: Sequence[str]) -> _Members:
        known: dict[str, int] = {}
        pairs = [
            (row, known.setdefault(text, len(known))) for row, value in enumerate(values) for text in read_set(value)
        ]
        owners, codes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(list(known), known, owners, codes)

    def counts(self, wanted: Iterable[str], count: int) -> np.ndarray:
        """int64 [count]: how many of the ``wanted`` texts, each of them once, each value has."""
        chosen = np.zeros(len(self.texts), dtype=bool)
        chosen[[self.code_of[text] for text in wanted if text in self.code_of]] = True
        return np.bincount(self.owners[chosen[self.codes]], minlength=count)


class LabelIndex:
    """Labels of all images as small numbers. A filter is applied to the distinct values of a label, not to the images.

    Args:
        values: {label: its values}, each a text.
        codes: int32 [labels, n], rows in the order of ``values``; -1 where an image lacks the label.
        types: {label: type}; text where missing.
    """

    def __init__(self, values: dict[str, list[str]], codes: np.ndarray, types: Mapping[str, LabelType]) -> None:
        self._texts = values
        self._codes = codes
        self._rows = {label: row for row, label in enumerate(values)}
        self.types: dict[str, LabelType] = {label: types.get(label, "text") for label in values}
        self._numbers: dict[tuple[str, Scale], np.ndarray] = {}
        self._members: dict[str, _Members] = {}

    @classmethod
    def of(cls, images: Sequence[Mapping[str, str]], types: Mapping[str, LabelType]) -> LabelIndex:
        """From each image's {label: value}; a label without a type has the one that its values have."""
        builder = LabelIndexBuilder()
        for labels in images:
            builder.add(labels)
        values = builder.values()
        new = {label: infer_type(values[label]) for label in values if label not in (*types, *RESERVED_LABELS)}
        return cls(values, builder.codes(), {**new, **types})

    @property
    def texts(self) -> Mapping[str, list[str]]:
        """{label: its values as they are written}."""
        return self._texts

    @property
    def values(self) -> dict[str, list[str]]:
        """{label: its values, of a set its members}."""
        return {
            label: self._set(label).texts if self.types[label] == "set" else texts
            for label, texts in self._texts.items()
        }

    def mask(self, filters: Filter) -> np.ndarray:
        """bool [n]: images that every filter allows. Of a label that no image has, only an exclusion allows them."""
        allowed = np.ones(self._codes.shape[1], dtype=bool)
        for each in filters:
            excluded = isinstance(each, TextFilter) and each.excluded
            if each.label in self._rows:
                # the code of an absent label, -1, is the last
                fits = np.append(self._fitting(each), False)
                allowed &= fits[self._codes[self._rows[each.label]]] != excluded
            elif not excluded:
                return np.zeros_like(allowed)
        return allowed

    def texts_of(self, images: np.ndarray) -> dict[str, list[str]]:
        """{label: its values as they are written} among these images; ``images`` bool [n]."""
        found = {}
        for label, row in self._rows.items():
            counts = np.bincount(self._codes[row][images] + 1, minlength=len(self._texts[label]) + 1)[1:]
            found[label] = [value for value, count in zip(self._texts[label], counts, strict=True) if count]
        return {label: values for label, values in found.items() if values}

    def values_of(self, images: np.ndarray) -> dict[str, list[str]]:
        """{label: its values, of a set its members} among these images; ``images`` bool [n]."""
        found = {}
        for label, texts in self.texts_of(images).items():
            found[label] = texts
            if self.types[label] == "set":
                members, written = self._set(label), np.zeros(len(self._texts[label]) + 1, dtype=bool)
                written[self._codes[self._rows[label]][images]] = True  # that of an absent label is the last
                found[label] = [members.texts[code] for code in np.unique(members.codes[written[members.owners]])]
        return found

    def _fitting(self, each: TextFilter | RangeFilter | SetFilter) -> np.ndarray:
        """bool, one for each distinct value of the label; of an exclusion those that it leaves out."""
        texts = self._texts[each.label]
        if isinstance(each, RangeFilter):
            numbers = self._read(each.label, each.scale)
            return (numbers >= each.low) & (numbers < each.high)
        if isinstance(each, SetFilter):
            wanted = set(each.values)
            return self._set(each.label).counts(wanted, len(texts)) == len(wanted)
        chosen = set(each.values)
        fits = np.fromiter((text in chosen for text in texts), dtype=bool, count=len(texts))
        return fits | (self._set(each.label).counts(chosen, len(texts)) > 0) if each.of_set else fits

    def _read(self, label: str, scale: Scale) -> np.ndarray:
        """f64, one for each distinct value; NaN: it is none. Read once."""
        if (label, scale) not in self._numbers:
            read = _READERS[scale]
            numbers = (math.nan if (number := read(text)) is None else number for text in self._texts[label])
            self._numbers[label, scale] = np.fromiter(numbers, dtype=np.float64, count=len(self._texts[label]))
        return self._numbers[label, scale]

    def _set(self, label: str) -> _Members:
        if label not in self._members:
            self._members[label] = _Members.of(self._texts[label])
        return self._members[label]


def joined_values(values: Mapping[str, list[str]], more: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """{label: values} of both, each value once."""
    found = dict(values)
    for label, texts in more.items():
        found[label] = list(dict.fromkeys([*found.get(label, []), *texts]))
    return found


class LabelIndexBuilder:
    """Collects the labels of images one by one, for a LabelIndex."""

    def __init__(self) -> None:
        self._codes: dict[str, list[int]] = {}
        self._values: dict[str, dict[str, int]] = {}
        self._count = 0

    def add(self, labels: Mapping[str, str]) -> None:
        for label, value in labels.items():
            known = self._values.setdefault(label, {})
            codes = self._codes.setdefault(label, [-1] * self._count)
            codes.append(known.setdefault(value, len(known)))
        self._count += 1
        for codes in self._codes.values():
            if len(codes) < self._count:
                codes.append(-1)

    def values(self) -> dict[str, list[str]]:
        return {label: list(known) for label, known in self._values.items()}

    def codes(self) -> np.ndarray:
        """int32 [labels, images]."""
        return np.array(list(self._codes.values()), dtype=np.int32).reshape(len(self._codes), self._count)
