"""Queries of a collection: weighted sums of vectors, and filters by labels. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lcl_core.common.errors import UserError

Vector = Sequence[float] | np.ndarray
# float32 rounding over a few hundred numbers: the direction of a shorter sum is noise
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
    """f32 [dim] of length 1: the direction of the weighted sum of the parts, each scaled to length 1 first.

    Args:
        parts: vectors of any length, by name.
        weights: by the same names, may be negative; 1 where missing.

    Raises:
        UserError: ``bad_vector``, naming the part; ``zero_query`` where the sum cancels out.
    """
    total = np.zeros(dim, np.float32)
    for name, vector in parts.items():
        total += np.float32(weights.get(name, 1.0)) * unit_vector(vector, dim, name)
    largest = max((abs(weights.get(name, 1.0)) for name in parts), default=0.0)
    if float(np.linalg.norm(total)) <= MIN_LENGTH * largest:
        message = "weights: the weighted sum cancels out, so that it has no direction; change a weight"
        raise UserError(message, code="zero_query", field="weights")
    return unit_vector(total, dim)


Where = Mapping[str, str | Sequence[str]]


class LabelIndex:
    """Labels of all images as small numbers.

    Args:
        values: {label: its values}.
        codes: int32 [labels, n], rows in the order of ``values``; -1 where an image lacks the label.
    """

    def __init__(self, values: dict[str, list[str]], codes: np.ndarray) -> None:
        self.values = values
        self._codes = codes
        self._rows = {label: row for row, label in enumerate(values)}

    @classmethod
    def of(cls, images: Sequence[Mapping[str, str]]) -> LabelIndex:
        """From each image's {label: value}."""
        values: dict[str, dict[str, int]] = {}
        codes: dict[str, list[int]] = {}
        for at, labels in enumerate(images):
            for label, value in labels.items():
                if label not in values:
                    values[label], codes[label] = {}, [-1] * len(images)
                codes[label][at] = values[label].setdefault(value, len(values[label]))
        rows = np.array(list(codes.values()), dtype=np.int32).reshape(len(codes), len(images))
        return cls({label: list(known) for label, known in values.items()}, rows)

    def mask(self, where: Where) -> np.ndarray:
        """bool [n]: images that have, for every label in ``where``, its value or one of its values.

        A label or a value that no image has matches nothing.
        """
        allowed = np.ones(self._codes.shape[1], dtype=bool)
        for label, choice in where.items():
            if label not in self._rows:
                return np.zeros_like(allowed)
            chosen = {choice} if isinstance(choice, str) else set(choice)
            codes = [code for code, value in enumerate(self.values[label]) if value in chosen]
            allowed &= np.isin(self._codes[self._rows[label]], codes)
        return allowed

    def values_of(self, images: np.ndarray) -> dict[str, list[str]]:
        """{label: its values} among these images; ``images`` bool [n]."""
        found = {}
        for label, row in self._rows.items():
            counts = np.bincount(self._codes[row][images] + 1, minlength=len(self.values[label]) + 1)[1:]
            found[label] = [value for value, count in zip(self.values[label], counts, strict=True) if count]
        return {label: values for label, values in found.items() if values}


def check_labels(where: Where, known: Iterable[str]) -> None:
    """Raises: UserError ``unknown_label``, listing the known labels."""
    labels = sorted(known)
    for label in where:
        if label not in labels:
            message = f"label {label!r} is not known in this collection; its labels: {', '.join(labels) or 'none'}"
            raise UserError(message, code="unknown_label", field=f"where.{label}")


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
