"""Queries of a collection: weighted sums of vectors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
