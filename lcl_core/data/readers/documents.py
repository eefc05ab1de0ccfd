"""A line of MMC4's layout as a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lcl_core.data.readers.values import BadValue, plain_json
from lcl_core.data.record import BadItem, Match, Matched, Picture, Record
from lcl_core.data.store import safe_name
from lcl_core.errors import UserError

# The matrix is by far the largest part of a line and nothing of ours uses it: the match of each image is all.
_NOT_KEPT = frozenset(("text_list", "image_info", "similarity_matrix"))
_MATCH_FIELDS = frozenset(("image_name", "matched_text_index", "matched_sim"))
MAX_NAME_BYTES = 1024
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a line stands, and what the record made of it is called."""

    file: str
    line: int
    id: str
    split: str = "train"


def read_document(
    line: dict[str, Any], origin: Origin, find: Callable[[dict[str, Any]], Picture]
) -> Iterator[Record | BadItem]:
    """The record of a document, after a BadItem for each image reference that had to be left out.

    The line's other fields go to ``extra``, and so do those of its images: ``extra["image_info"]`` has an object
    for each match, in the same order. ``similarity_matrix`` is dropped.

    Args:
        find: gives the picture of an object of ``image_info``.
    """
    try:
        yield from _read(line, origin, find)
    except BadValue as error:
        yield BadItem(origin.file, origin.line, "bad document", str(error))


def _read(
    line: dict[str, Any], origin: Origin, find: Callable[[dict[str, Any]], Picture]
) -> Iterator[Record | BadItem]:
    texts, images = line.get("text_list"), line.get("image_info")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        yield BadItem(origin.file, origin.line, "bad document", "text_list must be a list of strings")
        return
    if not isinstance(images, list):
        yield BadItem(origin.file, origin.line, "bad document", "image_info must be a list of objects")
        return
    usable = []
    for number, image in enumerate(images):
        problem = reference_problem(image, len(texts))
        if problem is None:
            usable.append(image)
        else:
            yield BadItem(origin.file, origin.line, "bad image reference", f"image_info[{number}]{problem}")
    yield _record(line, texts, usable, origin, find)


def _record(
    line: dict[str, Any],
    texts: list[str],
    images: list[dict[str, Any]],
    origin: Origin,
    find: Callable[[dict[str, Any]], Picture],
) -> Record:
    matches = [
        Match(image["image_name"], image["matched_text_index"], float(image["matched_sim"])) for image in images
    ]
    pictures = {image["image_name"]: find(image) for image in reversed(images)}
    extra = {key: plain_json(value) for key, value in line.items() if key not in _NOT_KEPT}
    source = extra.pop("source") if isinstance(extra.get("source"), str) else ""
    others = [{key: plain_json(value) for key, value in image.items() if key not in _MATCH_FIELDS} for image in images]
    if any(others):
        extra["image_info"] = others
    body = Matched(tuple(texts), tuple(matches))
    return Record(origin.id, body, tuple(reversed(pictures.values())), origin.split, source, extra)


def reference_problem(image: Any, sentences: int) -> str | None:
    """What is wrong with an object of ``image_info``; None: nothing."""
    if not isinstance(image, dict):
        return " must be an object"
    name_problem = image_name_problem(image.get("image_name"))
    if name_problem is not None:
        return f".image_name {name_problem}"
    index, similarity = image.get("matched_text_index"), image.get("matched_sim")
    if not isinstance(index, int) or isinstance(index, bool):
        return ".matched_text_index must be an integer"
    if not 0 <= index < sentences:
        return f".matched_text_index is outside the {sentences:,} sentences"
    if not isinstance(similarity, (int, float)) or isinstance(similarity, bool):
        return ".matched_sim must be a number"
    if not abs(similarity) <= 1 + _ROUNDING:
        return ".matched_sim must be from -1 to 1"
    return None


def image_name_problem(name: Any) -> str | None:
    """What is wrong with the name of an image; None: it is a plain relative path."""
    if not isinstance(name, str) or not name:
        return "must be a file name"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES:,} bytes"
    try:
        safe_name(name)
    except UserError as error:
        return f"is unsafe: {error.message}"
    return None
