"""A LanceDB database in a collection's directory as its index.

    COLLECTION/lancedb/images.lance, texts.lance    row (int64), item (its id), vector (f16 [E])

LanceDB compares all rows of a table up to ``vector_index.EXACT_ROWS``. Beyond, an IVF index with vectors of one bit a
number (RaBitQ, arXiv 2405.12497) is searched in the partitions nearest to the query, and what it finds is ranked again
by the table's own vectors. Short vectors have one byte a number there. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from lcl_core.collections import vector_index
from lcl_core.common.errors import UserError, import_optional
from lcl_core.vector_indexes import TARGETS, IndexLocation, Target, VectorBatch, unusable

FOLDER = "lancedb"  # in a collection's directory
RABITQ_WIDTH = 128  # of vectors from which one bit a number ranks as well as one byte; below, it loses neighbours
RABITQ_MULTIPLE = 8  # of which LanceDB needs the width to be
PROBED_SHARE = 0.02  # of the partitions, those that a search visits
MIN_PROBED = 20
REFINE_FACTOR = 10  # so many candidates for each answer are ranked again
# of a process, whatever the number of its tables: LanceDB would keep up to 6 GiB of partitions and 1 GiB of metadata.
# A partition that is not kept is read again, as a rule from the system's page cache.
INDEX_CACHE_BYTES, METADATA_CACHE_BYTES = 128 << 20, 64 << 20
_ROW, _ITEM, _VECTOR = "row", "item", "vector"


class LanceIndex:
    """Tables of images and texts. A table is opened by the first search, and read as it was then."""

    def __init__(self, url: str, dim: int) -> None:
        self.url = url
        self._dim = dim
        self._tables: dict[Target, Any] = {}

    @classmethod
    def at(cls, location: IndexLocation) -> LanceIndex:
        assert location.directory is not None
        return cls(str(location.directory / FOLDER), location.dim)

    @classmethod
    def check(cls, location: IndexLocation) -> None:
        """Any folder will do."""

    def __call__(self, target: Target, query: list[float], k: int, rows: Sequence[int], among: bool) -> Sequence[int]:
        try:
            table = self._table(target)
            return _search(table, query, k, _row_filter(rows, among), exact=among).tolist()
        except UserError:
            raise
        except (ValueError, RuntimeError, OSError, pa.ArrowException) as error:
            what = str(error).partition("\n")[0][:200]
            raise unusable(f"table {target} of {self.url} cannot be read ({what})") from error

    def build(self, target: Target, batches: Iterable[VectorBatch]) -> None:
        vector = pa.list_(pa.float16(), self._dim)
        schema = pa.schema([(_ROW, pa.int64()), (_ITEM, pa.string()), (_VECTOR, vector)])
        records = pa.RecordBatchReader.from_batches(schema, (_to_arrow(batch, schema) for batch in batches))
        database = self._database()
        database.drop_table(target, ignore_missing=True)  # a table that is overwritten keeps its former versions
        table = database.create_table(target, data=records, schema=schema)
        table.create_scalar_index(_ROW)
        if table.count_rows() > vector_index.EXACT_ROWS:
            table.create_index(_VECTOR, config=_index_config(self._dim, _partitions(table)))
        self._tables[target] = table

    def drop(self) -> None:
        database = self._database()
        for target in TARGETS:
            self._tables.pop(target, None)
            database.drop_table(target, ignore_missing=True)

    def _database(self) -> Any:
        """Raises: UserError ``missing_extra``."""
        return import_optional("lancedb", "an index lancedb", "lancedb", "index").connect(self.url, session=_session())

    def _table(self, target: Target) -> Any:
        """Raises: UserError ``index_unusable`` for vectors of another width; what LanceDB raises."""
        if target not in self._tables:
            table = self._database().open_table(target)
            if table.schema.field(_VECTOR).type.list_size != self._dim:
                raise unusable(f"{self.url} has vectors of another width than {self._dim}")
            self._tables[target] = table
        return self._tables[target]


@cache
def _session() -> Any:
    """The caches that all tables of this process share."""
    from lancedb import Session

    return Session(index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)


def _search(table: Any, query: list[float], k: int, where: str | None = None, exact: bool = False) -> np.ndarray:
    """int64 [<= k], best first. ``exact``: compare all rows that ``where`` leaves, which are few."""
    found = table.search(np.asarray(query, np.float32), vector_column_name=_VECTOR, query_type="vector")
    # no more partitions than these, also where they hold too few: then all vectors are compared, which costs less
    found = found.distance_type("cosine").nprobes(max(MIN_PROBED, math.ceil(PROBED_SHARE * _partitions(table))))
    found = found.refine_factor(REFINE_FACTOR).select([_ROW, "_distance"]).limit(k)
    if where is not None:
        found = found.where(where, prefilter=True)
    if exact:
        found = found.bypass_vector_index()
    return np.asarray(found.to_arrow()[_ROW].to_numpy(), dtype=np.int64)


def _partitions(table: Any) -> int:
    return max(1, round(math.sqrt(table.count_rows())))


def _index_config(width: int, partitions: int) -> Any:
    from lancedb.index import IvfRq, IvfSq

    one_bit = width >= RABITQ_WIDTH and width % RABITQ_MULTIPLE == 0
    return (IvfRq if one_bit else IvfSq)(distance_type="cosine", num_partitions=partitions)


def _row_filter(rows: Sequence[int], among: bool) -> str | None:
    if not rows:
        return "false" if among else None
    return f"{_ROW} {'' if among else 'NOT '}IN ({', '.join(str(int(row)) for row in rows)})"


def _to_arrow(batch: VectorBatch, schema: pa.Schema) -> pa.RecordBatch:
    rows, items, vectors = batch
    numbers = pa.array(np.ascontiguousarray(vectors, dtype=np.float16).ravel())
    nested = pa.FixedSizeListArray.from_arrays(numbers, schema.field(_VECTOR).type.list_size)
    return pa.record_batch([pa.array(rows, pa.int64()), pa.array(items, pa.string()), nested], schema=schema)
