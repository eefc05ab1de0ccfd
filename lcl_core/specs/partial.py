"""Parts of other specs, kept as they were given."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator


def _storable(value: Any) -> Any:
    """The value, if JSON and every database can hold it. Raises: ValueError."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{value[:40]!r} holds characters that cannot be printed")
    if isinstance(value, dict):
        for key, item in value.items():
            _storable(key)
            _storable(item)
    if isinstance(value, list | tuple):
        for item in value:
            _storable(item)
    return value


Anything = Annotated[Any, AfterValidator(_storable)]
Partial = Annotated[dict[str, Any], AfterValidator(_storable)]
