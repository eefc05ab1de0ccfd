"""Collections of a Qdrant server as the index of a collection: ``qdrant_…_images`` and ``qdrant_…_texts``.

A point has the row as its id, a vector (f16, on the server's disk; HNSW by cosine) and a payload: ``item``, its id,
and of an image the columns of its labels (``column_name``). The first point also has the names of all columns
(``columns``). A server is named by ``LCL_QDRANT_URL``. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from lcl_core.collections.vector_index import EXPANSION_ADD, EXPANSION_SEARCH, LINKS, filter_after_search
from lcl_core.common.errors import UserError, import_optional
from lcl_core.vector_indexes import (
    TARGETS,
    Filter,
    IndexLocation,
    LabelColumns,
    RangeFilter,
    SetFilter,
    Target,
    TextFilter,
    VectorBatch,
    column_name,
    columns_of,
    unusable,
)

MAX_LISTED = 5_000  # rows in a filter of a request
POINTS_PER_REQUEST = 500
SEARCH_SECONDS, WRITE_SECONDS = 10, 120


class QdrantIndex:
    """Collections of images and texts. Thread-safe; processes share the client of a server."""

    def __init__(self, url: str, name: str, dim: int, api_key: str = "") -> None:
        self._url, self._api_key = url, api_key
        self._name = name
        self._dim = dim
        self._columns: set[str] | None = None  # read at the first search by labels

    @classmethod
    def at(cls, location: IndexLocation) -> QdrantIndex:
        settings = location.settings
        url, key = (settings.qdrant_url, settings.qdrant_api_key.get_secret_value()) if settings else ("", "")
        return cls(url, location.name, location.dim, key)

    @classmethod
    def check(cls, location: IndexLocation) -> None:
        """Raises: UserError ``qdrant_unavailable``."""
        if location.settings is None or not location.settings.qdrant_url:
            message = "this service has no Qdrant server; set LCL_QDRANT_URL for api and workers, or set index to files"
            raise UserError(message, code="qdrant_unavailable", field="index")

    def __call__(self, target: Target, query: list[float], k: int, rows: Sequence[int], among: bool) -> Sequence[int]:
        with self._errors(unusable):
            if len(rows) > MAX_LISTED:
                total = self._client.count(self._collection(target)).count
                return filter_after_search(
                    lambda count: self._search(target, query, count), k, rows, among, total
                ).tolist()
            return self._search(target, query, k, self._row_filter(rows, among)).tolist()

    def search_labels(
        self, query: list[float], k: int, filters: Filter, without: Sequence[int], passing: int
    ) -> Sequence[int] | None:
        with self._errors(unusable):
            if self._columns is None:
                first = self._client.retrieve(self._collection("images"), [0], with_payload=["columns"])
                self._columns = set(first[0].payload.get("columns", ())) if first else set()
            if len(without) > MAX_LISTED or not columns_of(filters) <= self._columns:
                return None
            models = self._models
            conditions = [self._condition(each) for each in filters]
            hidden = [models.HasIdCondition(has_id=list(without))] if without else None
            chosen = models.Filter(must=conditions, must_not=hidden)
            return self._search("images", query, k, chosen).tolist()

    def build(self, target: Target, batches: Iterable[VectorBatch], labels: LabelColumns | None = None) -> None:
        """Raises: UserError ``qdrant_failed``."""
        models, name = self._models, self._collection(target)
        with self._errors(_failed):
            self._client.delete_collection(name, timeout=WRITE_SECONDS)
            self._client.create_collection(
                name,
                vectors_config=models.VectorParams(
                    size=self._dim,
                    distance=models.Distance.COSINE,
                    datatype=models.Datatype.FLOAT16,
                    on_disk=True,
                    hnsw_config=models.HnswConfigDiff(m=LINKS, ef_construct=EXPANSION_ADD),
                ),
                timeout=WRITE_SECONDS,
            )
            kinds = models.PayloadSchemaType
            for column in () if labels is None else labels.columns([]):
                kind = kinds.FLOAT if column.startswith("value_") else kinds.KEYWORD
                self._client.create_payload_index(name, column, kind, timeout=WRITE_SECONDS)
        self._columns = None
        for batch in batches:
            self._upsert(target, batch, labels)

    def drop(self) -> None:
        """Raises: UserError ``qdrant_failed``."""
        with self._errors(_failed):
            for target in TARGETS:
                self._client.delete_collection(self._collection(target), timeout=WRITE_SECONDS)

    @property
    def _client(self) -> Any:
        if not self._url:
            raise unusable("LCL_QDRANT_URL names no server")
        return _client(self._url, self._api_key)

    @property
    def _models(self) -> Any:
        return _qdrant("qdrant_client.models")

    def _collection(self, target: Target) -> str:
        return f"{self._name}_{target}"

    def _upsert(self, target: Target, batch: VectorBatch, labels: LabelColumns | None) -> None:
        """Raises: UserError ``qdrant_failed``."""
        rows, items, vectors = batch
        payloads = _payloads(rows, items, labels)
        with self._errors(_failed):
            for start in range(0, len(rows), POINTS_PER_REQUEST):
                part = slice(start, start + POINTS_PER_REQUEST)
                points = self._models.Batch(
                    ids=[int(row) for row in rows[part]],
                    vectors=np.asarray(vectors[part], np.float32).tolist(),
                    payloads=payloads[part],
                )
                self._client.upsert(self._collection(target), points, timeout=WRITE_SECONDS)

    def _search(self, target: Target, query: list[float], k: int, chosen: Any = None) -> np.ndarray:
        """int64 [<= k], best first."""
        found = self._client.query_points(
            self._collection(target),
            query=query,
            query_filter=chosen,
            search_params=self._models.SearchParams(hnsw_ef=max(EXPANSION_SEARCH, 2 * k)),
            limit=k,
            with_payload=False,
            timeout=SEARCH_SECONDS,
        )
        return np.array([point.id for point in found.points], dtype=np.int64)

    def _row_filter(self, rows: Sequence[int], among: bool) -> Any:
        if not among and not rows:
            return None
        condition = self._models.HasIdCondition(has_id=[int(row) for row in rows])
        return self._models.Filter(**{"must" if among else "must_not": [condition]})

    def _condition(self, each: TextFilter | RangeFilter | SetFilter) -> Any:
        models = self._models

        def has_any(what: Literal["text", "members"], values: Sequence[str]) -> Any:
            return models.FieldCondition(key=column_name(what, each.label), match=models.MatchAny(any=list(values)))

        if isinstance(each, RangeFilter):
            bounds = models.Range(gte=_finite(each.low), lt=_finite(each.high))
            return models.FieldCondition(key=column_name("value", each.label), range=bounds)
        if isinstance(each, SetFilter):
            return models.Filter(must=[has_any("members", [value]) for value in each.values])
        if not each.values:
            return models.HasIdCondition(has_id=[])
        found = [has_any("text", each.values)]
        found += [has_any("members", each.values)] if each.of_set else []
        return models.Filter(must_not=found) if each.excluded else models.Filter(should=found)

    @contextmanager
    def _errors(self, made: Any) -> Iterator[None]:
        """What the client raises as the UserError that ``made`` makes of a message without the server's key."""
        errors = _qdrant("qdrant_client.http.exceptions")
        try:
            yield
        except (errors.ApiException, ValueError, KeyError, OSError, RuntimeError) as error:
            what = (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
            raise made(f"Qdrant at {self._url} does not answer as expected for {self._name} ({what})") from error


def _payloads(rows: Sequence[int], items: Sequence[str], labels: LabelColumns | None) -> list[dict[str, Any]]:
    payloads: list[dict[str, Any]] = [{"item": item} for item in items]
    if labels is None:
        return payloads
    columns = labels.columns(rows)
    for at, row in enumerate(rows):
        payloads[at] |= {name: values[at] for name, values in columns.items() if values[at] is not None}
        if row == 0:
            payloads[at]["columns"] = list(columns)
    return payloads


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def _failed(what: str) -> UserError:
    message = f"{what}; mend that and resume the run, or index with files"
    return UserError(message, code="qdrant_failed", field="index")


def _qdrant(module: str) -> Any:
    return import_optional(module, "an index qdrant", "qdrant", "index")


@lru_cache(maxsize=8)
def _client(url: str, api_key: str) -> Any:
    """A client keeps connections: one for all indexes of a process."""
    return _qdrant("qdrant_client").QdrantClient(
        url=url, api_key=api_key or None, timeout=SEARCH_SECONDS, check_compatibility=False
    )
