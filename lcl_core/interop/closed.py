"""Closed schemas: models that know every name and bound every number, and errors of theirs in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from lcl_core.interop.small_files import refusal

Word = Annotated[str, Field(max_length=200)]
Version = Annotated[str, Field(max_length=40)]
Finite = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


def one_of(*names: str) -> AfterValidator:
    """For a text that is one of many names."""

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{name[:80]!r} is not known here")
        return name

    return AfterValidator(check)


Model = TypeVar("Model", bound=BaseModel)
_UNKNOWN = "nothing here reads this name; take it out of the file"


def validated(model: type[Model], found: Any, path: Path) -> Model:
    """Raises: UserError ``encoder_unreadable`` naming the file, the field and what is wrong with it."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:80] for part in first["loc"])
        reason = _UNKNOWN if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise refusal(path, f"{where}: {reason}" if where else reason) from error
