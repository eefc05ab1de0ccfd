"""Encoders in memory and open collections, shared by all requests. Importing this module imports torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from api.core.settings import ApiSettings
from api.services.collection_views import DuplicateCache, MapCache
from api.services.encoder_archive import EXAMINATIONS_FOLDER
from api.services.inference_device import InferenceDevice
from lcl_core.collections.changes import ChangeRecord, Delta
from lcl_core.collections.collection import Collection
from lcl_core.encoders.files import Hashes
from lcl_core.encoders.sandbox import inspect_encoder
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.dynamic_batcher import BatchObserver
from lcl_core.serving.model_pool import ModelPool
from lcl_core.vector_indexes import SearchFn

MAX_OPEN_COLLECTIONS = 16
LoadChanges = Callable[[int], Sequence[ChangeRecord]]


class InferenceBackend:
    """Thread-safe. Its methods block: call them in threads."""

    def __init__(self, settings: ApiSettings, observe: BatchObserver, device: InferenceDevice) -> None:
        self._device = device
        self._pool = ModelPool(
            max_bytes=settings.encoder_memory_bytes,
            device=device.torch_device,
            observe=observe,
            precision=settings.inference_precision,
            admit=self._examine_imported,
        )
        self._home = settings.home
        self._imported: set[Path] = set()
        self._collections: OrderedDict[Path, _OpenCollection] = OrderedDict()
        self._lock = threading.Lock()  # of the dictionaries: nobody reads files while holding it
        self._opening: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
        self.maps, self.duplicates = MapCache(), DuplicateCache()

    @property
    def encoder_bytes(self) -> int:
        """Memory of loaded encoders."""
        return self._pool.loaded_bytes

    @property
    def loading(self) -> int:
        """Encoders that are being loaded."""
        return self._pool.loading

    def encoder(
        self, directory: Path, registered: Hashes | None = None, *, imported: bool = False, evict: bool = True
    ) -> BatchedEngine:
        """The encoder of a directory, loaded by the first call.

        Args:
            registered: sha256 of its files by name, compared when it is loaded.
            imported: a user supplied its files; a sandboxed process examines them before they are loaded.
            evict: as ModelPool.get's.

        Raises: UserError, Busy while a run has the service's GPU.
        """
        self._device.check()
        if imported and directory not in self._imported:
            self._imported |= {directory, directory.resolve()}  # the pool resolves the directory
        return self._pool.get(directory, registered, evict=evict)

    def unload(self, directory: Path) -> None:
        """Unload a deleted encoder."""
        self._pool.drop(directory)
        self._imported -= {directory, directory.resolve()}

    def _examine_imported(self, directory: Path, registered: Hashes | None) -> None:
        """Raises: UserError of the examination."""
        if directory in self._imported:
            inspect_encoder(directory, memory=self._home / EXAMINATIONS_FOLDER, hashes=registered or None)

    def collection(
        self, directory: Path, changes: int = 0, load: LoadChanges | None = None, search: SearchFn | None = None
    ) -> Collection:
        """An open collection with at least its first ``changes`` changes. The directory itself never changes.

        Args:
            load: returns the changes after a number.
            search: external nearest-neighbour search; None: the files are searched.

        Raises: UserError; errors of ``load``.
        """
        opened = self._opened(directory)
        if opened is None:
            with self._lock:
                opening = self._opening.setdefault(directory, threading.Lock())
            with opening:  # of this directory alone: other collections are searched meanwhile
                opened = self._opened(directory) or self._keep(directory, Collection.open(directory, ask=search))
        return opened.with_changes(changes, load)

    def _opened(self, directory: Path) -> _OpenCollection | None:
        with self._lock:
            cached = self._collections.get(directory)
            if cached is not None:
                self._collections.move_to_end(directory)
            return cached

    def _keep(self, directory: Path, collection: Collection) -> _OpenCollection:
        """Keep an open collection, and give up others."""
        opened = _OpenCollection(collection)
        with self._lock:
            self._collections[directory] = opened
            self._collections.move_to_end(directory)
            for removed in [other for other in self._collections if not other.is_dir()]:
                del self._collections[removed]  # its mapped files still fill the disk
            while len(self._collections) > MAX_OPEN_COLLECTIONS:
                self._collections.popitem(last=False)
        return opened

    def close(self) -> None:
        self._pool.close()


class _OpenCollection:
    """A collection with the newest changes known to this process. One thread loads changes at a time."""

    def __init__(self, base: Collection) -> None:
        self._delta = Delta()
        self._current = base
        self._lock = threading.Lock()

    def with_changes(self, changes: int, load: LoadChanges | None) -> Collection:
        if self._delta.number >= changes or load is None:  # set last: the current state is at least as new
            return self._current
        with self._lock:
            if self._delta.number < changes:
                records = load(self._delta.number)
                delta = self._delta.with_changes(records)
                if records:
                    self._current = self._current.with_delta(delta)
                # changes compacted into this directory count, but are no longer listed
                self._delta = replace(delta, number=max(delta.number, changes))
            return self._current
