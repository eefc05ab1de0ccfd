"""A record of a sharded corpus as a reader would give it, its pictures named as the corpus names them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from lcl_core.data.document import ImageSegment, TextSegment
from lcl_core.data.record import BadItem, Match, Matched, Pair, Picture, Record, Sequence
from lcl_core.data.shards import ShardedCorpus
from lcl_core.data.shards.body import picture_names
from lcl_core.data.shards.layout import MATCHED, SEQUENCE
from lcl_core.errors import UserError


def body_of(value: dict[str, Any], number: int) -> Matched | Sequence | Pair:
    """``value``: the description of record ``number``."""
    names = picture_names(value, number)
    if value["kind"] == MATCHED:
        matches = (Match(names[match["picture"]], match["sentence"], match["similarity"]) for match in value["matches"])
        return Matched(tuple(value["sentences"]), tuple(matches))
    if value["kind"] == SEQUENCE:
        segments = (
            TextSegment(segment["text"]) if "text" in segment else ImageSegment(names[segment["picture"]])
            for segment in value["segments"]
        )
        return Sequence(tuple(segments))
    return Pair(names[0], tuple(value["captions"]), value["labels"])


def records_of_shards(corpus: ShardedCorpus) -> Iterator[Record | BadItem]:
    """Every record in its order; one range read each, when the first of its pictures is loaded."""
    for number in range(len(corpus.index)):
        try:
            value = corpus.description(number)
        except UserError as error:
            yield BadItem(error.file or "", 0, "damaged record", error.message)
            continue
        pictures = (Picture(name, partial(corpus.image_bytes, name)) for name in picture_names(value, number))
        yield Record(
            value["id"],
            body_of(value, number),
            tuple(pictures),
            value["split"],
            value["source"],
            value.get("extra", {}),
        )
