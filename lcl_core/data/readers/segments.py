"""A line of our own form whose texts and images stand where its ``segments`` say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lcl_core.data.document import ImageSegment, Segment
from lcl_core.data.drafts import segments_of
from lcl_core.data.readers.documents import Origin, image_name_problem
from lcl_core.data.record import BadItem, Picture, Record, Sequence
from lcl_core.errors import UserError

_NOT_KEPT = frozenset(("segments", "text_list", "image_info", "source"))


def read_sequence(
    line: dict[str, Any], origin: Origin, find: Callable[[dict[str, Any]], Picture]
) -> Iterator[Record | BadItem]:
    """The Sequence record, after a BadItem for each image that had to be left out; the other fields go to ``extra``.

    Args:
        find: gives the picture of an object with ``image_name``.
    """
    try:
        segments = segments_of(line)
    except UserError as error:
        yield BadItem(origin.file, origin.line, "bad document", error.message)
        return
    kept: list[Segment] = []
    for number, segment in enumerate(segments):
        problem = image_name_problem(segment.name) if isinstance(segment, ImageSegment) else None
        if problem is None:
            kept.append(segment)
        else:
            yield BadItem(origin.file, origin.line, "bad image reference", f"segments[{number}].image {problem}")
    names = dict.fromkeys(segment.name for segment in kept if isinstance(segment, ImageSegment))
    pictures = tuple(find({"image_name": name}) for name in names)
    source = line["source"] if isinstance(line.get("source"), str) else ""
    extra = {key: value for key, value in line.items() if key not in _NOT_KEPT}
    yield Record(origin.id, Sequence(tuple(kept)), pictures, origin.split, source, extra)
