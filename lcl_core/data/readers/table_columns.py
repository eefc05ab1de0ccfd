"""Which column of a table is what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from lcl_core.data.readers.options import ReaderOptions
from lcl_core.errors import UserError

# compared in lower case, with spaces and dashes as underscores; those that stand first win
_IMAGES = (
    *("image", "image_path", "image_file", "image_name", "file_name", "filename", "filepath", "file_path", "file"),
    *("path", "img", "img_path", "image_id", "imageid", "image_url", "img_url", "url"),
)
_CAPTIONS = (
    *("captions", "caption", "text", "texts", "sentence", "sentences", "title", "description", "comment", "raw"),
    *("alt", "alt_text", "prompt"),
)
_LABELS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "subclass")
_SPLITS = ("split", "partition", "subset")
_MAX_COLUMNS = 10_000


class TableOptions(ReaderOptions):
    """Columns by name, or, of a table without header, by number from 0. None: recognised by their usual names.

    Attributes:
        image: the column of file names, relative to the table or ``images``, or of URLs.
        captions, labels: any number of columns each; a label's kind is the name of its column.
        split, source: columns that tell them; without, the split is told by the table's name or folder.
        header: does the first line name the columns?
        delimiter: None: tab in a ``.tsv``, else the one of , ; | tab that the first line has most of.
        quoted: are fields that begin with a quotation mark quoted? None: between commas and semicolons.
        encoding: of CSV and TSV.
        images: folder or tars of the images; None: ``images`` beside the table, or where it lies.
        group: rows in a row about one image, equal but for captions, as one record.
    """

    image: str | None = None
    captions: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    split: str | None = None
    source: str | None = None
    header: bool = True
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quoted: bool | None = None
    encoding: Literal["utf-8", "cp1252", "latin-1"] = "utf-8"
    images: Path | None = None
    group: bool = True


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; those not listed are kept as ``extra``."""

    image: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None
    source: str | None

    @property
    def used(self) -> frozenset[str]:
        return frozenset((self.image, *self.captions, *self.labels, self.split or "", self.source or ""))


def choose_columns(names: Sequence[str], options: TableOptions, file: str) -> Columns:
    """Take what the options name, and recognise the rest.

    Raises: UserError ``bad_option`` naming the option whose column is not there or is not recognised.
    """
    if len(names) > _MAX_COLUMNS:
        raise UserError(f"it has more than {_MAX_COLUMNS:,} columns", code="bad_option", field="delimiter", file=file)
    for option in ("image", "captions", "labels", "split", "source"):
        _check(option, getattr(options, option), names, file)
    image = options.image or _first(names, _IMAGES)
    if image is None:
        raise _unknown("image", names, file)
    given = {image, *(options.captions or ()), *(options.labels or ()), options.split, options.source}
    rest = [name for name in names if name not in given]
    split = options.split or _first(rest, _SPLITS)
    captions = options.captions if options.captions is not None else tuple(_all(rest, _CAPTIONS))
    labels = options.labels if options.labels is not None else tuple(_all(rest, _LABELS))
    if not captions and not labels:
        raise _unknown("captions", names, file)
    return Columns(image, captions, labels, split, options.source)


def has_columns(names: Sequence[str]) -> bool:
    """Would a table with these columns be recognised?"""
    return _first(names, _IMAGES) is not None and any(_all(names, (*_CAPTIONS, *_LABELS)))


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _first(names: Iterable[str], known: tuple[str, ...]) -> str | None:
    found = {_plain(name): name for name in names}
    return next((found[word] for word in known if word in found), None)


def _all(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    return [name for name in names if _plain(name) in known]


def _check(option: str, chosen: str | tuple[str, ...] | None, names: Sequence[str], file: str) -> None:
    for name in (chosen,) if isinstance(chosen, str) else chosen or ():
        if name not in names:
            message = f"option {option!r}: there is no column {name[:100]!r}; there are {_listed(names)}"
            raise UserError(message, code="bad_option", field=option, file=file)


def _unknown(option: str, names: Sequence[str], file: str) -> UserError:
    message = f"which column is the {option}? Name it as option {option!r}; there are {_listed(names)}"
    return UserError(message, code="bad_option", field=option, file=file)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:20])
    return f"{shown} …" if len(names) > 20 else shown or "none"
