"""A record as the JSON member of its shard, and back as the documents and pairs that training knows.

    {"id", "kind", "split", "source", "pictures": [{"name", "file"}, …], …the body…, "extra": {…}}

    matched     "sentences": […], "matches": [{"picture": k, "sentence": n, "similarity": s}, …]
    sequence    "segments": [{"text": …} | {"picture": k}, …]
    pair        "captions": […], "labels": {…}; its picture is the only one

A picture that could not be had keeps its place with the extension "none", so that a document is laid out as it would
be from the files where it came from, and the missing picture is counted there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lcl_core.data.document import ImageSegment, TextSegment
from lcl_core.data.pairs import Pair as CorpusPair
from lcl_core.data.record import Matched, Pair, Record, Sequence
from lcl_core.data.shards.layout import MATCHED, PAIR, SEQUENCE, image_name

Json = dict[str, Any]


def kind_of(body: Matched | Sequence | Pair) -> str:
    return {Matched: MATCHED, Sequence: SEQUENCE, Pair: PAIR}[type(body)]


def texts_of(body: Matched | Sequence | Pair) -> tuple[str, ...]:
    """Every text of a record."""
    if isinstance(body, Matched):
        return body.sentences
    if isinstance(body, Sequence):
        return tuple(segment.text for segment in body.segments if isinstance(segment, TextSegment))
    return body.captions


def names_of(body: Matched | Sequence | Pair) -> tuple[str, ...]:
    """Names of the pictures, each once, in the order in which the body first names them."""
    if isinstance(body, Matched):
        names = [match.image for match in body.matches]
    elif isinstance(body, Sequence):
        names = [segment.name for segment in body.segments if isinstance(segment, ImageSegment)]
    else:
        names = [body.image]
    return tuple(dict.fromkeys(names))


def similarities_of(body: Matched | Sequence | Pair) -> list[float]:
    """The best similarity of each sentence that has an image; every image of a sequence is as good as can be."""
    if isinstance(body, Sequence):
        return [math.inf for segment in body.segments if isinstance(segment, ImageSegment)]
    if isinstance(body, Pair):
        return []
    best: dict[int, float] = {}
    for match in body.matches:
        if 0 <= match.sentence < len(body.sentences):
            best[match.sentence] = max(best.get(match.sentence, -math.inf), match.similarity)
    return list(best.values())


def to_json(record: Record, extensions: Mapping[str, str]) -> bytes:
    """The member's bytes, keys sorted. ``extensions``: by picture name, in the order of their numbers."""
    numbers = {name: number for number, name in enumerate(extensions)}
    value: Json = {
        "id": record.id,
        "kind": kind_of(record.body),
        "split": record.split,
        "source": record.source,
        "pictures": [{"name": name, "file": extension} for name, extension in extensions.items()],
        **_body(record.body, numbers),
    }
    if record.extra:
        value["extra"] = dict(record.extra)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "replace")


def _body(body: Matched | Sequence | Pair, numbers: Mapping[str, int]) -> Json:
    if isinstance(body, Matched):
        matches = [
            {"picture": numbers[match.image], "sentence": match.sentence, "similarity": match.similarity}
            for match in body.matches
        ]
        return {"sentences": list(body.sentences), "matches": matches}
    if isinstance(body, Sequence):
        segments = [
            {"text": segment.text} if isinstance(segment, TextSegment) else {"picture": numbers[segment.name]}
            for segment in body.segments
        ]
        return {"segments": segments}
    return {"captions": list(body.captions), "labels": dict(body.labels)}


def picture_names(value: Json, record: int) -> list[str]:
    """The corpus's names of a record's pictures."""
    return [image_name(record, number, picture["file"]) for number, picture in enumerate(value["pictures"])]


def to_document(value: Json, record: int) -> Json:
    """A matched record or a sequence in MMC4's layout; a sequence has ``segments`` too, with its true order."""
    names = picture_names(value, record)
    # a field of this name that the corpus had for purposes of its own would turn a matched record into a sequence
    extra = {key: field for key, field in value.get("extra", {}).items() if key != "segments"}
    if value["kind"] == MATCHED:
        texts = value["sentences"]
        infos = [
            {
                "image_name": names[match["picture"]],
                "matched_text_index": match["sentence"],
                "matched_sim": match["similarity"],
            }
            for match in value["matches"]
        ]
        return {**extra, "id": value["id"], "text_list": texts, "image_info": infos}
    segments = [
        {"text": segment["text"]} if "text" in segment else {"image": names[segment["picture"]]}
        for segment in value["segments"]
    ]
    return {**extra, "id": value["id"], **mmc4_of_segments(segments), "segments": segments}


def mmc4_of_segments(segments: list[Json]) -> Json:
    """``text_list`` and ``image_info`` for those who only show a document: an image goes with the text after it."""
    texts = [segment["text"] for segment in segments if "text" in segment]
    infos, seen = [], 0
    for segment in segments:
        if "text" in segment:
            seen += 1
        else:
            place = max(0, min(seen, len(texts) - 1))
            infos.append({"image_name": segment["image"], "matched_text_index": place, "matched_sim": 1.0})
    return {"text_list": texts, "image_info": infos}


def to_pair(value: Json, record: int) -> CorpusPair:
    """A captioned image as a corpus gives it."""
    return CorpusPair(
        image=picture_names(value, record)[0],
        captions=tuple(value["captions"]),
        labels=value["labels"],
        split=value["split"],
        source=value["source"],
        extra={"id": value["id"], **value.get("extra", {})},
    )
