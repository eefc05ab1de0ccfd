"""Columns of a table of images: options, usual names, and the role of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lcl_core.common.errors import UserError
from lcl_core.data.formats.base import ReaderOptions, distinct_names, to_printable
from lcl_core.data.formats.parquet import is_arrow_file, read_schema
from lcl_core.data.json_values import BadValue, parse_json

# compared in lower case, with spaces and dashes as underscores; earlier names win
_IMAGE_COLUMNS = (
    *("image", "image_path", "image_file", "image_name", "file_name", "filename", "filepath", "file_path", "file"),
    *("path", "img", "img_path", "image_id", "imageid", "image_url", "img_url", "url"),
    *("jpg", "jpeg", "png", "webp", "image_bytes"),  # of img2dataset, by its format of images
)
_CAPTION_COLUMNS = (
    *("captions", "caption", "text", "texts", "sentence", "sentences", "title", "description", "comment", "raw"),
    *("alt", "alt_text", "prompt", "txt"),
)
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "subclass")
_SPLIT_COLUMNS = ("split", "partition", "subset")
MAX_COLUMNS = 10_000
MAX_CLASS_BYTES = 16 << 20  # metadata that names classes
_UNLABELLED = -1  # of a ClassLabel


class TableOptions(ReaderOptions):
    """Columns by name, or, of a table without header, by number from 0. None: recognised by their usual names.

    Attributes:
        image: the column of file names, relative to the table or ``images``, of URLs, or of the images themselves.
        captions, labels: any number of columns each; a label's kind is the name of its column.
        split, source: columns of these; without one, the split is that of the table's name or folder.
        header: does the first line name the columns?
        delimiter: None: tab in a ``.tsv``, else the one of , ; | tab that the first line has most of.
        quoted: are fields that begin with a quotation mark quoted? None: between commas and semicolons.
        encoding: of CSV and TSV.
        images: folder or tars of the images; None: ``images`` beside the table, or where it lies.
        group: rows about one image, equal but for captions, as one record.
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
class ColumnRoles:
    """Names of columns; those not listed are kept as ``extra``. ``image`` is empty until it is recognised."""

    image: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None
    source: str | None

    @property
    def used(self) -> frozenset[str]:
        return frozenset((self.image, *self.captions, *self.labels, self.split or "", self.source or ""))

    def extend(self, names: Iterable[str], options: TableOptions, classes: Collection[str] = ()) -> ColumnRoles:
        """With the columns among further ``names`` that are recognised. Image and split stay where they are found.

        Args:
            classes: columns that have numbers of classes, whatever their names.
        """
        rest = [name for name in names if name not in self.used]
        captions = [] if options.captions is not None else _all_known(rest, _CAPTION_COLUMNS)
        labels = [] if options.labels is not None else _all_known(rest, _LABEL_COLUMNS, classes)
        return replace(
            self,
            image=self.image or _first_known(rest, _IMAGE_COLUMNS) or "",
            captions=(*self.captions, *captions),
            labels=(*self.labels, *labels),
            split=self.split or _first_known(rest, _SPLIT_COLUMNS),
        )


def choose_columns(
    rows: Iterable[Iterable[str]], options: TableOptions, file: str, classes: Collection[str] = ()
) -> ColumnRoles:
    """Take what the options name, and recognise the rest among the columns of the first rows.

    Args:
        classes: columns that have numbers of classes.

    Raises: UserError ``bad_option`` naming the option whose column is not there or is not recognised.
    """
    roles = ColumnRoles(
        options.image or "", options.captions or (), options.labels or (), options.split, options.source
    )
    known: dict[str, None] = {}
    for row in rows:
        names = [name for name in row if name not in known]
        roles = roles.extend(names, options, classes)
        known |= dict.fromkeys(names)
        if len(known) > MAX_COLUMNS:
            message = f"it has more than {MAX_COLUMNS:,} columns"
            raise UserError(message, code="bad_option", field="delimiter", file=file)
    names = list(known)
    for option in ("image", "captions", "labels", "split", "source"):
        _check_columns(option, getattr(options, option), names, file)
    if not roles.image:
        raise _unknown_column_error("image", names, file)
    if not roles.captions and not roles.labels:
        raise _unknown_column_error("captions", names, file)
    return roles


def has_columns(names: Collection[str], classes: Collection[str] = ()) -> bool:
    """Would a table with these columns, some of which have numbers of classes, be recognised?"""
    return _first_known(names, _IMAGE_COLUMNS) is not None and any(
        _all_known(names, (*_CAPTION_COLUMNS, *_LABEL_COLUMNS), classes)
    )


def read_class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each column whose feature is a ClassLabel of the Hub's ``datasets``, by number.

    A Parquet or Arrow file has them as JSON in its metadata, as a list or by number. What is malformed counts as
    absent.
    """
    schema = read_schema(path) if is_arrow_file(path) else None
    data = ((None if schema is None else schema.metadata) or {}).get(b"huggingface", b"")
    if len(data) > MAX_CLASS_BYTES:
        return {}
    try:
        value = parse_json(data)
    except BadValue:
        return {}
    for key in ("info", "features"):
        value = value.get(key) if isinstance(value, dict) else None
    features = value if isinstance(value, dict) else {}
    found = {column: _class_list(feature) for column, feature in features.items()}
    return {column: distinct_names(names) for column, names in found.items() if names}


def _class_list(feature: Any) -> list[str]:
    """Empty: the feature is no ClassLabel."""
    if not isinstance(feature, dict) or feature.get("_type", "ClassLabel") != "ClassLabel":
        return []
    names = feature.get("names")
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return [to_printable(name.strip()) for name in names]


def class_name(names: Sequence[str], number: int, column: str) -> str:
    """The class of a number; empty for -1, which is no label. One without a name is its number. Raises: BadValue."""
    if number == _UNLABELLED:
        return ""
    if not 0 <= number < len(names):
        raise BadValue(f"{column!r} has {number}, which is none of its {len(names):,} classes")
    return names[number] or str(number)


def _normalize_name(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _first_known(names: Iterable[str], known: tuple[str, ...]) -> str | None:
    found = {_normalize_name(name): name for name in names}
    return next((found[word] for word in known if word in found), None)


def _all_known(names: Iterable[str], known: tuple[str, ...], others: Collection[str] = ()) -> list[str]:
    return [name for name in names if _normalize_name(name) in known or name in others]


def _check_columns(option: str, chosen: str | tuple[str, ...] | None, names: Sequence[str], file: str) -> None:
    for name in (chosen,) if isinstance(chosen, str) else chosen or ():
        if name not in names:
            message = f"option {option!r}: there is no column {name[:100]!r}; there are {_list_names(names)}"
            raise UserError(message, code="bad_option", field=option, file=file)


def _unknown_column_error(option: str, names: Sequence[str], file: str) -> UserError:
    message = f"which column is the {option}? Name it as option {option!r}; there are {_list_names(names)}"
    return UserError(message, code="bad_option", field=option, file=file)


def _list_names(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:20])
    return f"{shown} …" if len(names) > 20 else shown or "none"
