"""JSON that both databases accept."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """``value``, non-finite numbers as null and NUL characters left out: PostgreSQL's JSON knows neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
