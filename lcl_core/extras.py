"""Libraries that only some uses need: imported when they are asked for, with words when they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lcl_core.errors import UserError


def optional(module: str, purpose: str, extra: str = "data") -> Any:
    """Import a module of an extra. Raises: UserError ``missing_extra`` that names it."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        message = f"{purpose} needs {name}, which is not installed; `pip install 'lcl[{extra}]'` brings it"
        raise UserError(message, code="missing_extra") from error
