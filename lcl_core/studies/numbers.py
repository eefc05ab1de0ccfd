"""Numbers among what JSON holds."""

from __future__ import annotations

from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[int | float]:
    """True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
