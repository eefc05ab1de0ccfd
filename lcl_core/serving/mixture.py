"""One query out of several: the weighted sum of their directions. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lcl_core.errors import UserError

Vector = Sequence[float] | np.ndarray
# Of float32's rounding in a few hundred numbers: a shorter sum has no direction that anybody asked for.
SHORTEST = 1e-5


def unit(vector: Vector, dim: int, field: str = "vector") -> np.ndarray:
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


def mix(parts: Mapping[str, Vector], weights: Mapping[str, float], dim: int) -> np.ndarray:
    """f32 [dim] of length 1: the direction of the sum of all parts, each made as long as its weight says.

    Args:
        parts: a vector by its name; its length does not matter.
        weights: by the same names; a negative one leads away from its part. One that is not there is 1.

    Raises:
        UserError: ``bad_vector``, naming the part; ``zero_query`` where nothing is left of the sum.
    """
    total = np.zeros(dim, np.float32)
    for name, vector in parts.items():
        total += np.float32(weights.get(name, 1.0)) * unit(vector, dim, name)
    largest = max((abs(weights.get(name, 1.0)) for name in parts), default=0.0)
    if float(np.linalg.norm(total)) <= SHORTEST * largest:
        message = "weights: what is asked for cancels out, so that it has no direction; change a weight"
        raise UserError(message, code="zero_query", field="weights")
    return unit(total, dim)
