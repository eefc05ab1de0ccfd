"""What a user may set about a reader: a small strict model each, and errors that name the option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from lcl_core.errors import UserError
from lcl_core.specs.base import Spec


class ReaderOptions(Spec):
    """Options of a reader; unknown ones are refused. Most readers derive their own."""


O = TypeVar("O", bound=ReaderOptions)  # noqa: E741 - the usual letter of a type variable


def parse_options(model: type[O], given: Mapping[str, Any], reader: str) -> O:
    """Check ``given`` against a reader's options. Raises: UserError ``bad_option`` whose field is the option."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "options"
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields) or "none"
        problem = f"the {reader} reader has no option {field!r}; it knows {known}"
    else:
        problem = f"option {field!r} of the {reader} reader: {first['msg'].removeprefix('Value error, ')}"
    raise UserError(problem, code="bad_option", field=field)
