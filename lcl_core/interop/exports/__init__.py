"""An encoder of ours in the formats of others. Importing this loads no torch."""

from lcl_core.interop.exports.formats import FORMATS, Format, check, export

__all__ = ["FORMATS", "Format", "check", "export"]
