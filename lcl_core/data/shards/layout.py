"""The sharded form: what lies where, and the names in it.

    index.json          header: shards with sizes and sha256, code tables, counts
    index/rows.bin      a row of ``ROW`` for each record
    index/groups.bin    uint16 for each record: which (kind, split, source) it is of
    index/blocks.bin    uint16 [blocks, groups]: records of each group in each run of ``BLOCK`` records
    index/similarities.bin  float32 for each sentence with an image: its best; infinity for an image of a sequence
    index/starts.bin    uint64 [blocks + 1]: where each run's similarities start
    shards/000000.tar   USTAR; a record is a run of members ``{record:09d}.json``, ``{record:09d}.{k}.{ext}``
    quarantine.jsonl    what was left out, and why

All numbers are little-endian. Any document is one range of one file, and an image's name tells its record.
"""

from __future__ import annotations

import re

import numpy as np

from lcl_core.errors import UserError

FORMAT = "lcl-shards"
VERSION = 1
HEADER = "index.json"
ROWS, GROUPS, BLOCKS = "index/rows.bin", "index/groups.bin", "index/blocks.bin"
SIMILARITIES, STARTS = "index/similarities.bin", "index/starts.bin"
QUARANTINE = "quarantine.jsonl"
MATCHED, SEQUENCE, PAIR = "matched", "sequence", "pair"
# offset, length: the record's range in its shard; json: how much of the range, from its start, holds no picture;
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
MAX_RECORDS = 10**9 - 1  # nine digits; tar readers group members by the name's first part
LEFT_OUT = "none"  # extension of a picture that could not be had when the corpus was converted
_IMAGE = re.compile(r"(\d{9})\.(\d+)\.([a-z0-9]+)")


def shard_name(number: int) -> str:
    return f"shards/{number:06d}.tar"


def json_name(record: int) -> str:
    return f"{record:09d}.json"


def image_name(record: int, number: int, extension: str) -> str:
    """Name of a record's picture, which is also its name in the corpus."""
    return f"{record:09d}.{number}.{extension}"


def parse_image_name(name: str) -> tuple[int, str]:
    """(record, the part that picks the member). Raises: UserError ``file_missing`` for any other name."""
    found = _IMAGE.fullmatch(name)
    if found is None:
        raise UserError("no picture of a sharded corpus has such a name", code="file_missing", file=name)
    return int(found[1]), f"{found[2]}.{found[3]}"
