"""Files damaged at random, the same way each time: whatever happens is a record, a bad item or a UserError."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader
from lcl_core.data.records import Record

TRIES = 40
SECONDS = 5.0
STRUCT = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def rows(sample: Any) -> pa.Table:
    (url, data), *_ = sample.urls().items()
    row = {"images": [None, {"bytes": data, "path": url}], "texts": ["a text", None], "metadata": "[null, {}]"}
    schema = pa.schema([("images", STRUCT), ("texts", pa.list_(pa.string())), ("metadata", pa.string())])
    return pa.Table.from_pylist([row] * 6, schema)


def captioned(sample: Any) -> pa.Table:
    (url, data), *_ = sample.urls().items()
    row = {"image": {"bytes": data, "path": url}, "caption": ["a text"], "label": 1, "split": "val"}
    return pa.Table.from_pylist([row] * 6)


LAYOUTS: dict[str, tuple[str, Any]] = {
    "jsonl": ("mmc4", lambda make, sample: make.jsonl("docs_shard_0_v2.jsonl", sample.mmc4())),
    "gz": ("mmc4", lambda make, sample: make.jsonl("docs_shard_0_v2.jsonl.gz", sample.mmc4())),
    "zip": ("mmc4", lambda make, sample: make.jsonl("docs_shard_0_v2.jsonl.zip", sample.mmc4())),
    "tar": ("webdataset", lambda make, sample: make.img2dataset("x", sample.urls()) / "00000.tar"),
    "side file": ("webdataset", lambda make, sample: make.img2dataset("x", sample.urls()) / "00000.parquet"),
    "parquet": ("obelics", lambda make, sample: make.parquet("x.parquet", rows(sample))),
    "arrow": ("obelics", lambda make, sample: make.arrow("x.arrow", rows(sample))),
    "feather": ("obelics", lambda make, sample: make.arrow("x.feather", rows(sample), stream=False)),
    "parquet table": ("table", lambda make, sample: make.parquet("x.parquet", captioned(sample))),
    "arrow table": ("table", lambda make, sample: make.arrow("x.arrow", captioned(sample))),
    "our zip": (
        "native",
        lambda make, sample: make.zip("x.zip", {"interleaved.jsonl": make.lines(sample.documents)}),
    ),
}


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, removed or set to extremes, half of the time near the end: directories and footers."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        near_end = draw.random() < 0.5
        place = max(len(changed) - 1 - draw.randrange(600), 0) if near_end else draw.randrange(len(changed))
        piece = draw.choice((b"\0", b"\xff", bytes([draw.randrange(256)]), b"\xff" * 8, b"\x7f" + b"\xff" * 7))
        drop = draw.choice((len(piece), len(piece), 0, 20))
        changed[place : place + drop] = piece
    return bytes(changed)


def look_at_everything(path: Path, format: str) -> None:
    for item in open_reader(path, format).records():
        if not isinstance(item, Record):
            continue
        json.dumps(item.extra, allow_nan=False)
        repr((item.id, item.body)).encode()
        for image in item.images:
            try:
                image.load()
            except UserError:
                continue


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_damage(make: Any, sample: Any, layout: str) -> None:
    format, build = LAYOUTS[layout]
    path: Path = build(make, sample)
    whole = path.read_bytes()
    draw = random.Random(layout)
    for attempt in range(TRIES):
        path.write_bytes(damaged(whole, draw))
        start = time.monotonic()
        try:
            look_at_everything(path if format == "native" else path.parent, format)
        except UserError:
            pass
        except Exception as error:
            pytest.fail(f"attempt {attempt}: {type(error).__name__}: {error}")
        assert time.monotonic() - start < SECONDS, f"attempt {attempt} took too long"
