"""Queries of a collection: weighted sums of vectors, and filters by labels. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lcl_core.common.errors import UserError

Vector = Sequence[float] | np.ndarray
# Of float32's rounding in a few hundred numbers: a shorter sum has no direction that anybody asked for.
MIN_LENGTH = 1e-5


def unit_vector(vector: Vector, dim: int, field: str = "vector") -> np.ndarray:
    """f32 [dim] of length 1. Raises: UserError ``bad_vector``, naming the field."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        query = np.asarray(vector, dtype=np.float32)
    if query.shape != (dim,):
        message = f"the vector has shape {query.shape}; this collection's have {dim} numbers"
        raise UserError(message, code="bad_vector", field=field)
    length = float(np.linalg.norm(query))
    if not np.isfinite(length) or length == 0:
        raise UserError("the vector is all zero, or not finite", code="bad_vector", field=field)
    return query / length


def combine_vectors(parts: Mapping[str, Vector], weights: Mapping[str, float], dim: int) -> np.ndarray:
    """f32 [dim] of length 1: the direction of the sum of all parts, each made as long as its weight says.

    Args:
        parts: a vector by its name; its length does not matter.
        weights: by the same names; a negative one leads away from its part. One that is not there is 1.

    Raises:
        UserError: ``bad_vector``, naming the part; ``zero_query`` where nothing is left of the sum.
    """
    total = np.zeros(dim, np.float32)
    for name, vector in parts.items():
        total += np.float32(weights.get(name, 1.0)) * unit_vector(vector, dim, name)
    largest = max((abs(weights.get(name, 1.0)) for name in parts), default=0.0)
    if float(np.linalg.norm(total)) <= MIN_LENGTH * largest:
        message = "weights: what is asked for cancels out, so that it has no direction; change a weight"
        raise UserError(message, code="zero_query", field="weights")
    return unit_vector(total, dim)


Where = Mapping[str, str | Sequence[str]]


class LabelIndex:
    """Every label of every picture as a small number.

    Args:
        values: {label: its values}.
        codes: int32 [labels, n], rows in the order of ``values``; -1 where a picture lacks the label.
    """

    def __init__(self, values: dict[str, list[str]], codes: np.ndarray) -> None:
        self.values = values
        self._codes = codes
        self._rows = {label: row for row, label in enumerate(values)}

    @classmethod
    def of(cls, pictures: Sequence[Mapping[str, str]]) -> LabelIndex:
        """From each picture's {label: value}."""
        values: dict[str, dict[str, int]] = {}
        codes: dict[str, list[int]] = {}
        for at, labels in enumerate(pictures):
            for label, value in labels.items():
                if label not in values:
                    values[label], codes[label] = {}, [-1] * len(pictures)
                codes[label][at] = values[label].setdefault(value, len(values[label]))
        rows = np.array(list(codes.values()), dtype=np.int32).reshape(len(codes), len(pictures))
        return cls({label: list(known) for label, known in values.items()}, rows)

    def mask(self, where: Where) -> np.ndarray:
        """bool [n]: the pictures that carry, for every label in ``where``, its value or one of its values.

        A label or a value that no picture has fits nothing.
        """
        allowed = np.ones(self._codes.shape[1], dtype=bool)
        for label, wanted in where.items():
            if label not in self._rows:
                return np.zeros_like(allowed)
            chosen = {wanted} if isinstance(wanted, str) else set(wanted)
            codes = [code for code, value in enumerate(self.values[label]) if value in chosen]
            allowed &= np.isin(self._codes[self._rows[label]], codes)
        return allowed

    def values_of(self, pictures: np.ndarray) -> dict[str, list[str]]:
        """{label: its values} that some of these pictures have; ``pictures`` bool [n]."""
        found = {}
        for label, row in self._rows.items():
            counts = np.bincount(self._codes[row][pictures] + 1, minlength=len(self.values[label]) + 1)[1:]
            found[label] = [value for value, count in zip(self.values[label], counts, strict=True) if count]
        return {label: values for label, values in found.items() if values}


def check_labels(where: Where, known: Iterable[str]) -> None:
    """Raises: UserError ``unknown_label``, with the labels that there are."""
    labels = sorted(known)
    for label in where:
        if label not in labels:
            message = f"label {label!r} is not known in this collection; its labels: {', '.join(labels) or 'none'}"
            raise UserError(message, code="unknown_label", field=f"where.{label}")


class LabelIndexBuilder:
    """Collects the labels of pictures one by one, and gives them out as ``Labels`` wants them."""

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
        """int32 [labels, pictures]."""
        return np.array(list(self._codes.values()), dtype=np.int32).reshape(len(self._codes), self._count)
