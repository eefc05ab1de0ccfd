"""Other people's encoders in and out. Importing this loads no torch; the first use of a name does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcl_core.interop.official import export_official, load_official
    from lcl_core.interop.origins import Origin, recognise

_HOMES = {
    "Origin": "origins",
    "export_official": "official",
    "load_official": "official",
    "recognise": "origins",
}
__all__ = ["Origin", "export_official", "load_official", "recognise"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
