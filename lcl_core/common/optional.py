"""Import of libraries that belong to an optional extra; the error names the extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lcl_core.common.errors import UserError


def import_optional(module: str, purpose: str, extra: str = "data") -> Any:
    """Import a module of an extra. Raises: UserError ``missing_extra`` that names the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        message = f"{purpose} needs {name}, which is not installed; `pip install 'lcl[{extra}]'` brings it"
        raise UserError(message, code="missing_extra") from error
