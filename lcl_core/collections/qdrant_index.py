"""Collections of a Qdrant server as the index of a collection: ``qdrant_…_images`` and ``qdrant_…_texts``.

A point has the row as its id, a vector (f16, on the server's disk; HNSW by cosine), and the item's id (``item``) as its
payload. A server is named by ``LCL_QDRANT_URL``. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from lcl_core.collections.vector_index import EXPANSION_ADD, EXPANSION_SEARCH, LINKS
from lcl_core.common.errors import UserError, import_optional
from lcl_core.vector_indexes import TARGETS, IndexLocation, Target, VectorBatch, unusable

POINTS_PER_REQUEST = 500
SEARCH_SECONDS, WRITE_SECONDS = 10, 120


class QdrantIndex:
    """Collections of images and texts. Thread-safe; processes share the client of a server."""

    def __init__(self, url: str, name: str, dim: int, api_key: str = "") -> None:
        self._url, self._api_key = url, api_key
        self._name = name
        self._dim = dim

    @classmethod
    def at(cls, location: IndexLocation) -> QdrantIndex:
        settings = location.settings
        url, key = (settings.qdrant_url, settings.qdrant_api_key.get_secret_value()) if settings else ("", "")
        return cls(url, location.name, location.dim, key)

    @classmethod
    def check(cls, location: IndexLocation) -> None:
        """Raises: UserError ``qdrant_failed``."""
        if location.settings is None or not location.settings.qdrant_url:
            message = "this service has no Qdrant server; set LCL_QDRANT_URL for api and workers, or set index to files"
            raise UserError(message, code="qdrant_failed", field="index")

    def __call__(self, target: Target, query: list[float], k: int, rows: Sequence[int], among: bool) -> Sequence[int]:
        with self._errors(unusable):
            found = self._client.query_points(
                self._collection(target),
                query=query,
                query_filter=self._row_filter(rows, among),
                search_params=self._models.SearchParams(hnsw_ef=max(EXPANSION_SEARCH, 2 * k)),
                limit=k,
                with_payload=False,
                timeout=SEARCH_SECONDS,
            )
            return [point.id for point in found.points]

    def build(self, target: Target, batches: Iterable[VectorBatch]) -> None:
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
        for rows, items, vectors in batches:
            with self._errors(_failed):
                for start in range(0, len(rows), POINTS_PER_REQUEST):
                    part = slice(start, start + POINTS_PER_REQUEST)
                    points = models.Batch(
                        ids=[int(row) for row in rows[part]],
                        vectors=np.asarray(vectors[part], np.float32).tolist(),
                        payloads=[{"item": item} for item in items[part]],
                    )
                    self._client.upsert(name, points, timeout=WRITE_SECONDS)

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

    def _row_filter(self, rows: Sequence[int], among: bool) -> Any:
        if not among and not rows:
            return None
        condition = self._models.HasIdCondition(has_id=[int(row) for row in rows])
        return self._models.Filter(**{"must" if among else "must_not": [condition]})

    @contextmanager
    def _errors(self, made: Any) -> Iterator[None]:
        """What the client raises as the UserError that ``made`` makes of a message without the server's key."""
        errors = _qdrant("qdrant_client.http.exceptions")
        try:
            yield
        except (errors.ApiException, ValueError, KeyError, OSError, RuntimeError) as error:
            what = (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
            raise made(f"Qdrant at {self._url} does not answer as expected for {self._name} ({what})") from error


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
