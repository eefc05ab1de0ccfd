"""A row of OBELICS as a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lcl_core.data.document import ImageSegment, Segment, TextSegment
from lcl_core.data.readers.images import ImageFinder
from lcl_core.data.readers.loading import held
from lcl_core.data.readers.values import BadValue, parse_json, plain_json
from lcl_core.data.record import BadItem, Picture, Record, Sequence


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands, line 1 being the first, and its split."""

    file: str
    line: int
    split: str

    def bad(self, reason: str, detail: str) -> BadItem:
        return BadItem(self.file, self.line, reason, detail)


def read_row(
    fields: dict[str, Any], place: Place, finder: ImageFinder, bytes_column: str | None
) -> Iterator[Record | BadItem]:
    """The record of a row, after a BadItem for each place that had to be left out.

    Args:
        fields: the row as Python values; emptied on the way.

    Raises: BadValue when the row cannot be a document.
    """
    images, texts = fields.pop("images"), fields.pop("texts")
    embedded = fields.pop(bytes_column) if bytes_column else None
    _check_lengths(images, texts, embedded)
    found: dict[str, Any] = {}
    for column in ("metadata", "general_metadata"):
        try:
            found[column] = _parsed(fields.pop(column, None))
        except BadValue as error:
            yield place.bad("bad metadata", f"{column}: {error}")
    metadata = found.get("metadata")
    gallery = _Gallery(finder, metadata if isinstance(metadata, list) else [])
    segments: list[Segment] = []
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        problem = _place_problem(image, text)
        if problem is not None:
            yield place.bad("bad place", f"{problem} at place {number}")
        elif text is not None:
            segments.append(TextSegment(text))
        else:
            segments.append(ImageSegment(gallery.add(number, image, embedded[number] if embedded else None)))
    extra = plain_json(fields)
    if found.get("general_metadata") is not None:
        extra["general_metadata"] = found["general_metadata"]
    if gallery.about:
        extra["images"] = gallery.about
    pictures = tuple(gallery.pictures.values())
    yield Record(f"{place.file}:{place.line}", Sequence(tuple(segments)), pictures, place.split, extra=extra)


@dataclass(slots=True)
class _Gallery:
    """The pictures of a row: an image that stands in several places is one picture, named by the first of them."""

    finder: ImageFinder
    metadata: list[Any]
    pictures: dict[str, Picture] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, image: Any, embedded: Any) -> str:
        """The name of the picture at place ``number``."""
        (where, data), (_, more) = _source(image), _source(embedded)
        if where in self._names:
            return self._names[where]
        name = str(number)
        data = data if data is not None else more
        self.pictures[name] = self._picture(name, where, data)
        about = self.metadata[number] if number < len(self.metadata) else None
        facts = {**({"url": where} if where else {}), **(about if isinstance(about, dict) else {})}
        if where:
            self._names[where] = name
        if facts:
            self.about[name] = facts
        return name

    def _picture(self, name: str, where: str, data: bytes | None) -> Picture:
        if data is not None:
            return Picture(name, partial(held, data, name))
        if "://" in where:
            return self.finder.find_url(where, name)
        return self.finder.find(where, where, called=name)


def _source(image: Any) -> tuple[str, bytes | None]:
    """URL or path of an image, maybe empty, and its bytes if they are at hand."""
    if isinstance(image, dict):
        where, data = image.get("path"), image.get("bytes")
        return where if isinstance(where, str) else "", data if isinstance(data, bytes) else None
    return (image, None) if isinstance(image, str) else ("", image if isinstance(image, bytes) else None)


def _place_problem(image: Any, text: Any) -> str | None:
    if image is None and text is None:
        return "neither text nor image"
    if image is not None and text is not None:
        return "both text and image"
    if text is not None:
        return None if isinstance(text, str) else "a text that is no string"
    return None if _source(image) != ("", None) else "an image that is neither URL nor bytes"


def _check_lengths(images: Any, texts: Any, embedded: Any) -> None:
    if images is None or texts is None or len(images) != len(texts):
        lengths = " and ".join("none" if part is None else f"{len(part):,}" for part in (images, texts))
        raise BadValue(f"images and texts must be lists of one length, not {lengths}")
    if embedded is not None and len(embedded) != len(images):
        raise BadValue(f"the column of bytes has {len(embedded):,} places, images has {len(images):,}")


def _parsed(value: Any) -> Any:
    """A metadata column: usually JSON in a string."""
    return plain_json(parse_json(value) if isinstance(value, str) and value else value)
