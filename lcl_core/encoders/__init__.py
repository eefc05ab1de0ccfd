"""Encoders in memory, ours and other libraries': load, detect, validate, import and export.

Importing this package loads no torch; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcl_core.encoders.detect import EncoderFormat, detect_encoder
    from lcl_core.encoders.original_checkpoint import export_official, load_official

_HOMES = {
    "EncoderFormat": "detect",
    "export_official": "original_checkpoint",
    "load_official": "original_checkpoint",
    "detect_encoder": "detect",
}
__all__ = ["EncoderFormat", "detect_encoder", "export_official", "load_official"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
