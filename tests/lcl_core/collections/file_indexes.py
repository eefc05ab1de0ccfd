"""A collection's own files as two vector indexes: its vectors, compared one by one, and its HNSW graph.

The files are ``image_vectors.bin`` and ``image_graph.usearch``, and those of the texts, as in ``file_format``; the
product writes them once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lcl_core.collections import file_format
from lcl_core.collections.vector_index import EXPANSION_SEARCH, MAX_NEIGHBOURS, hnsw_graph, load_hnsw_graph, nearest
from lcl_core.collections.vector_index import filter_after_search as filter_after
from lcl_core.common.files import fsync_path
from lcl_core.common.threads import usable_cores
from lcl_core.vector_indexes import TARGETS, Target, unusable


class FlatIndex:
    """Compares all vectors of a file: exact."""

    def __init__(self, directory, dim, dtype="f32"):
        self._directory = directory
        self._dim = dim
        self._dtype = file_format.NUMPY_DTYPES[dtype]

    def __call__(self, target, query, k, rows, among):
        vectors = self._open(target)
        allowed = np.zeros(len(vectors), dtype=bool) if among else np.ones(len(vectors), dtype=bool)
        allowed[np.asarray(rows, dtype=np.int64)] = among
        return nearest(vectors, np.asarray(query, np.float32), k, np.flatnonzero(allowed))[0].tolist()

    def build(self, target, batches, labels=None):
        path = self._path(target)
        building = path.with_name(f".{path.name}.building")
        with building.open("wb") as file:
            for _, _, vectors in batches:
                file.write(np.asarray(vectors, self._dtype).tobytes())
        fsync_path(building)
        building.replace(path)

    def drop(self):
        for target in TARGETS:
            self._path(target).unlink(missing_ok=True)

    def _path(self, target):
        return self._directory / file_format.SIDES[target][3]

    def _open(self, target):
        """[n, E]. Raises: UserError ``index_unusable``."""
        path = self._path(target)
        try:
            rows, rest = divmod(path.stat().st_size, self._dim * self._dtype.itemsize)
            if rest or not rows:
                raise unusable(f"{path.name} does not hold vectors of {self._dim} numbers")
            return np.memmap(path, self._dtype, mode="r", shape=(rows, self._dim))
        except OSError as error:
            raise unusable(f"{path.name} cannot be read ({error.strerror})") from error


class HnswFileIndex:
    """An HNSW graph in a file. A search maps it; a build replaces the file."""

    def __init__(self, directory, dim):
        self._directory = directory
        self._dim = dim
        self._mapped: dict[Target, tuple[tuple[int, int], Any]] = {}

    def __call__(self, target, query, k, rows, among):
        graph, vector = self._open(target), np.asarray(query, np.float32)

        def walk(count):
            return np.asarray(graph.search(vector, count).keys, dtype=np.int64)

        if not among and not rows:
            return walk(k).tolist() if k <= MAX_NEIGHBOURS else ()
        return filter_after(walk, k, rows, among, len(graph)).tolist()

    def build(self, target, batches, labels=None):
        graph = hnsw_graph(self._dim, 0)
        for batch in batches:
            self._link(graph, batch)
        self._save(target, graph)

    def drop(self):
        self._mapped.clear()
        for name in file_format.GRAPHS.values():
            (self._directory / name).unlink(missing_ok=True)

    def _link(self, graph, batch):
        rows, _, vectors = batch
        graph.add(np.asarray(rows, np.uint64), np.asarray(vectors, np.float32), threads=usable_cores())

    def _save(self, target, graph):
        path = self._directory / file_format.GRAPHS[target]
        building = path.with_name(f".{path.name}.building")
        graph.save(building)
        fsync_path(building)
        building.replace(path)

    def _open(self, target):
        """The mapped graph of the file that is there now."""
        path = self._directory / file_format.GRAPHS[target]
        status = path.stat() if path.exists() else None
        stamp = (status.st_ino, status.st_mtime_ns) if status else (0, 0)
        known = self._mapped.get(target)
        if known is None or known[0] != stamp:
            known = self._mapped[target] = stamp, self._load(target)
        return known[1]

    def _load(self, target):
        """Raises: UserError ``index_unusable``, ``missing_extra``."""
        path = self._directory / file_format.GRAPHS[target]
        try:
            graph = load_hnsw_graph(path, view=True)
        except (RuntimeError, ValueError) as error:
            raise unusable(f"{path.name} is no graph: {error}") from error
        if graph is None or graph.ndim != self._dim:
            raise unusable(f"{path.name} is missing, or is no graph of vectors of {self._dim} numbers")
        graph.expansion_search = EXPANSION_SEARCH
        return graph
