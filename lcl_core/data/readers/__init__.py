"""Readers of foreign formats: each walks a corpus as it is distributed and gives records and bad items."""

from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.readers.registry import FORMATS, detect_format, open_reader, reader_class
from lcl_core.data.record import BadItem, Match, Matched, Pair, Picture, Record, Sequence

__all__ = [
    "FORMATS",
    "BadItem",
    "Match",
    "Matched",
    "Pair",
    "Picture",
    "Reader",
    "ReaderOptions",
    "Record",
    "Sequence",
    "detect_format",
    "open_reader",
    "reader_class",
]
