"""What all specs share: strictness, names, shares, and JSON values kept as they were given."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _check_storable(value: Any) -> Any:
    """The value, if JSON and every database can hold it. Raises: ValueError."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{value[:40]!r} holds characters that cannot be printed")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_storable(key)
            _check_storable(item)
    if isinstance(value, list | tuple):
        for item in value:
            _check_storable(item)
    return value


JsonValue = Annotated[Any, AfterValidator(_check_storable)]
PartialSpec = Annotated[dict[str, Any], AfterValidator(_check_storable)]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Spec(BaseModel):
    """Unknown fields are refused, and so are infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
