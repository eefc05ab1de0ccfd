"""A collection as JSON lines.

Lines and not Parquet: they are made and read one by one in constant memory, whatever reads JSON reads them, and a
download that breaks off is good up to its last whole line. Each line stands for itself, encoder and all, so that
files may be cut and joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lcl_core.serving.collection import Collection
    from lcl_core.serving.layout import Target

ROWS_AT_ONCE = 128


def lines_of(collection: Collection, target: Target) -> Iterator[bytes]:
    """A piece for some rows: the record of each with ``encoder_hash``, and its ``vector`` to the last bit of f32."""
    count, width = collection.count(target), collection.dim
    numbers = ", ".join(["%.9g"] * width)
    for start in range(0, count, ROWS_AT_ONCE):
        places = range(start, min(start + ROWS_AT_ONCE, count))
        _, vectors = collection.at(target, places)
        lines = []
        for place, vector in zip(places, vectors.astype("<f4"), strict=True):
            facts = {**collection.record(target, place), "encoder_hash": collection.encoder_hash}
            head = json.dumps(facts, ensure_ascii=False)[:-1]
            lines.append(f'{head}, "vector": [{numbers % tuple(vector.tolist())}]}}\n')
        yield "".join(lines).encode("utf-8", "replace")
