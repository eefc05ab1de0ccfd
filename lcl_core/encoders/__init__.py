"""Encoders in memory, ours and other libraries': load, detect, validate, import and export.

Importing this package loads no torch; the first use of a name below does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcl_core.encoders.engine import EncoderEngine, estimate_memory, open_engine
    from lcl_core.encoders.original_checkpoint import export_official, load_official

_MODULES = {
    "EncoderEngine": "engine",
    "estimate_memory": "engine",
    "export_official": "original_checkpoint",
    "load_official": "original_checkpoint",
    "open_engine": "engine",
}
__all__ = ["EncoderEngine", "estimate_memory", "export_official", "load_official", "open_engine"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
