"""The sharded form on disk: files, names, tar members, and the JSON member of a record.

    index.json          header: shards with sizes and sha256, code tables, counts
    index/rows.bin      a row of ``ROW`` for each record
    index/groups.bin    uint16 for each record: its group of (kind, split, source)
    index/blocks.bin    uint16 [blocks, groups]: records of each group in each run of ``BLOCK`` records
    index/similarities.bin  float32 for each sentence with an image: its best; infinity for an image of a sequence
    index/starts.bin    uint64 [blocks + 1]: where each run's similarities start
    shards/{section}-{part}-{n}.tar   USTAR; a record is a run of members ``KEY.json``, ``KEY.{k}.{ext}``
    quarantine.jsonl    items left out, and why

All numbers are little-endian. A document is one range of one file. A part of the input (``lcl_core.parts``) is
written to a shard of its own, or to several where one would be too large; KEY is the number of the record in the part.
The name of an image in the corpus is ``{record:09d}.{k}.{ext}``, with the record's number in the corpus.
The JSON member is

    {"id", "kind", "split", "source", "pictures": [{"name", "file"}, …], …the body…, "extra": {…}}

    matched     "sentences": […], "matches": [{"picture": k, "sentence": n, "similarity": s}, …]
    sequence    "segments": [{"text": …} | {"picture": k}, …]
    pair        "captions": […], "labels": {…}; its image is the only one

An image that could not be loaded keeps its number with the extension "none", so that a document has the same layout
as in its source files, and the missing image is counted there.
"""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data.records import (
    Body,
    CaptionedImage,
    CaptionPair,
    ImageSegment,
    MatchedDocument,
    Record,
    SequenceDocument,
    TextSegment,
)

FORMAT = "lcl-shards"
VERSION = 1
HEADER = "index.json"
ROWS, GROUPS, BLOCKS = "index/rows.bin", "index/groups.bin", "index/blocks.bin"
SIMILARITIES, STARTS = "index/similarities.bin", "index/starts.bin"
QUARANTINE = "quarantine.jsonl"
MATCHED, SEQUENCE, PAIR = "matched", "sequence", "pair"
# offset, length: the record's range in its shard; json: how much of the range, from its start, holds no image;
# text: UTF-8 bytes of its texts; matches: how many similarities it has
ROW = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u4"),
        ("json", "<u4"),
        ("text", "<u4"),
        ("shard", "<u4"),
        ("images", "<u2"),
        ("matches", "<u2"),
        ("group", "<u2"),
    ]
)
CODE = np.dtype("<u2")
SIMILARITY, START = np.dtype("<f4"), np.dtype("<u8")
BLOCK = 4096  # records counted together: a block of codes is searched in about ten microseconds
MAX_GROUPS = 1024
MAX_RECORD_BYTES = 1 << 30
MAX_RECORD_IMAGES = (1 << 16) - 1
MAX_SHARDS = 300_000  # the header names each of them, and is read whole: ``storage.MAX_FILE_BYTES``
MAX_RECORDS = 10**9 - 1  # nine digits; tar readers group members by the name's first part
LEFT_OUT = "none"  # extension of an image that could not be had when the corpus was converted
_SHARD = re.compile(r"shards/\d{5,9}-\d{5,9}-\d{3,9}\.tar")
_IMAGE = re.compile(r"(\d{9})\.(\d+)\.([a-z0-9]+)")


def is_shard_name(name: str) -> bool:
    """Whether a conversion gives that name to a shard."""
    return _SHARD.fullmatch(name) is not None


def image_name(record: int, number: int, extension: str) -> str:
    """Name of a record's image, which is also its name in the corpus."""
    return f"{record:09d}.{number}.{extension}"


def parse_image_name(name: str) -> tuple[int, str]:
    """(record, the part that picks the member). Raises: UserError ``file_missing`` for any other name."""
    found = _IMAGE.fullmatch(name)
    if found is None:
        raise UserError("no image of a sharded corpus has such a name", code="file_missing", file=name)
    return int(found[1]), f"{found[2]}.{found[3]}"


TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)
_TAR_MODE = 0o644


def tar_padded(size: int) -> int:
    """``size`` rounded up to whole blocks."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK


def tar_member(name: str, data: bytes) -> bytes:
    """One member, the same bytes for the same arguments: no times, no owners."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, _TAR_MODE
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return b"".join((header, data, bytes(tar_padded(len(data)) - len(data))))


def split_members(data: bytes) -> dict[str, memoryview]:
    """Contents by the part of the member's name after the first dot.

    Raises: ValueError where the range does not hold whole members.
    """
    found: dict[str, memoryview] = {}
    view = memoryview(data)
    at = 0
    while at < len(data):
        block = data[at : at + TAR_BLOCK]  # of tar_member; tarfile's own parser takes ten times as long
        if block[257:262] != b"ustar":
            raise ValueError("not a tar header")
        checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        if int(block[148:154], 8) != checksum:
            raise ValueError("a tar header is damaged")
        name, size = block[:100].partition(b"\0")[0].decode("ascii"), int(block[124:135], 8)
        start, end = at + TAR_BLOCK, at + TAR_BLOCK + size
        if end > len(data):
            raise ValueError(f"member {name} is cut off")
        found[name.partition(".")[2]] = view[start:end]
        at = start + tar_padded(size)
    return found


Json = dict[str, Any]


def body_kind(body: Body) -> str:
    return {MatchedDocument: MATCHED, SequenceDocument: SEQUENCE, CaptionedImage: PAIR}[type(body)]


def best_similarities(body: Body) -> list[float]:
    """The best similarity of each sentence that has an image; every image of a sequence is as good as can be."""
    if isinstance(body, SequenceDocument):
        return [math.inf for segment in body.segments if isinstance(segment, ImageSegment)]
    if isinstance(body, CaptionedImage):
        return []
    best: dict[int, float] = {}
    for match in body.matches:
        if 0 <= match.sentence < len(body.sentences):
            best[match.sentence] = max(best.get(match.sentence, -math.inf), match.similarity)
    return list(best.values())


def encode_record(record: Record, extensions: Mapping[str, str]) -> bytes:
    """The member's bytes, keys sorted. ``extensions``: by image name, in the order of their numbers."""
    numbers = {name: number for number, name in enumerate(extensions)}
    value: Json = {
        "id": record.id,
        "kind": body_kind(record.body),
        "split": record.split,
        "source": record.source,
        "pictures": [{"name": name, "file": extension} for name, extension in extensions.items()],
        **_encode_body(record.body, numbers),
    }
    if record.extra:
        value["extra"] = dict(record.extra)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "replace")


def _encode_body(body: Body, numbers: Mapping[str, int]) -> Json:
    if isinstance(body, MatchedDocument):
        matches = [
            {"picture": numbers[match.image], "sentence": match.sentence, "similarity": match.similarity}
            for match in body.matches
        ]
        return {"sentences": list(body.sentences), "matches": matches}
    if isinstance(body, SequenceDocument):
        segments = [
            {"text": segment.text} if isinstance(segment, TextSegment) else {"picture": numbers[segment.name]}
            for segment in body.segments
        ]
        return {"segments": segments}
    return {"captions": list(body.captions), "labels": dict(body.labels)}


def record_image_names(value: Json, record: int) -> list[str]:
    """The corpus's names of a record's images."""
    return [image_name(record, number, image["file"]) for number, image in enumerate(value["pictures"])]


def decode_document(value: Json, record: int) -> Json:
    """A matched record or a sequence in MMC4's layout; a sequence has ``segments`` too, with its true order."""
    names = record_image_names(value, record)
    # a field of this name that the corpus had for purposes of its own would turn a matched record into a sequence
    extra = {key: field for key, field in value.get("extra", {}).items() if key != "segments"}
    if value["kind"] == MATCHED:
        texts, further = value["sentences"], _image_fields(value)
        infos = [
            {
                "image_name": names[match["picture"]],
                "matched_text_index": match["sentence"],
                "matched_sim": match["similarity"],
                **({"subject": fields["subject"]} if "subject" in fields else {}),
            }
            for match, fields in zip(value["matches"], further, strict=True)
        ]
        return {**extra, "id": value["id"], "text_list": texts, "image_info": infos}
    segments = [
        {"text": segment["text"]} if "text" in segment else {"image": names[segment["picture"]]}
        for segment in value["segments"]
    ]
    return {**extra, "id": value["id"], **mmc4_from_segments(segments), "segments": segments}


def _image_fields(value: Json) -> list[Json]:
    """Further fields of the images of a matched record, an object for each match; {} where there are none."""
    matches, fields = value["matches"], value.get("extra", {}).get("image_info")
    fits = isinstance(fields, list) and len(fields) == len(matches) and all(isinstance(each, dict) for each in fields)
    return fields if fits else [{}] * len(matches)


def mmc4_from_segments(segments: list[Json]) -> Json:
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


def decode_pair(value: Json, record: int) -> CaptionPair:
    """A captioned image as a corpus gives it."""
    return CaptionPair(
        image=record_image_names(value, record)[0],
        captions=tuple(value["captions"]),
        labels=value["labels"],
        split=value["split"],
        source=value["source"],
        extra={"id": value["id"], **value.get("extra", {})},
    )
