"""Readers of foreign formats by name. Adding one is adding a file and its line here.

Each reader walks a corpus as it is distributed and yields records and bad items.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from lcl_core.common.errors import UserError
from lcl_core.data.formats.base import FormatReader, parse_options

# Module and class by format, in the order of sniffing: those whose files are sure to be theirs come first.
# Modules are imported on use, since some need an optional extra.
FORMATS: dict[str, tuple[str, str]] = {
    "mmc4": ("mmc4", "MMC4Reader"),
    "karpathy": ("coco", "KarpathyReader"),
    "nocaps": ("coco", "NoCapsReader"),
    "coco": ("coco", "CocoReader"),
    "native": ("native", "NativeReader"),
    "conversations": ("conversations", "ConversationsReader"),
    "obelics": ("obelics", "ObelicsReader"),
    "webdataset": ("webdataset", "WebDatasetReader"),
    "markdown": ("html.site", "MarkdownReader"),
    "web": ("html.site", "WebReader"),
    "pair_folders": ("webdataset", "PairFoldersReader"),
    "table": ("table", "TableReader"),
    "imagefolder": ("imagefolder", "ImageFolderReader"),
}


def reader_class(name: str) -> type[FormatReader[Any]]:
    """Look a format up. Raises: UserError ``invalid_value`` naming those there are."""
    if name not in FORMATS:
        raise UserError(
            f"format {name!r} is not known; choose from auto, {', '.join(FORMATS)}",
            field="format",
        )
    module, attribute = FORMATS[name]
    return cast(type[FormatReader[Any]], getattr(import_module(f"lcl_core.data.formats.{module}"), attribute))


def detect_format(path: Path) -> str:
    """The first format that recognises ``path``. Raises: UserError ``invalid_value``."""
    for name in FORMATS:
        try:
            if reader_class(name).sniff(path):
                return name
        except (OSError, UserError):  # another format may still read it
            continue
    raise UserError(f"the format is not recognised; name it, one of {', '.join(FORMATS)}", file=path)


def open_reader(path: str | Path, format: str = "auto", **options: Any) -> FormatReader[Any]:
    """Open a corpus of any format.

    Args:
        path: a file or a folder.
        format: a name of ``FORMATS``; "auto": the first that recognises ``path``.
        options: of that reader, see its ``options_type``.

    Raises:
        UserError: ``not_found``, ``corpus_unreadable``, ``invalid_value``, or ``bad_option`` whose field is
            the option.
    """
    place = Path(path)
    if not os.path.exists(place):  # not the method of Path, which raises for names that no file can have
        raise UserError("there is no such file or folder", code="not_found", file=place)
    if not (place.is_dir() or place.is_file()):  # a pipe or a device would block or never end
        raise UserError("it is neither a folder nor an ordinary file", code="corpus_unreadable", file=place)
    chosen = reader_class(detect_format(place) if format == "auto" else format)
    return chosen(place, parse_options(chosen.options_type, options, chosen.format))
