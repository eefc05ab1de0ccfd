"""Other people's encoders in and out."""

from lcl_core.interop.official import export_official, load_official

__all__ = ["export_official", "load_official"]
