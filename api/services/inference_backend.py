"""Encoders in memory and open collections, shared by all requests. Importing this module imports torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from api.core.settings import ApiSettings
from api.services.encoder_archive import EXAMINATIONS_FOLDER
from lcl_core.collections.collection import Collection
from lcl_core.collections.delta import CollectionWithDelta, Delta
from lcl_core.collections.external_index import SearchFn
from lcl_core.collections.file_format import ChecksumVerifier
from lcl_core.collections.records import ChangeRecord
from lcl_core.encoders.file_hashes import Hashes, lists_all_files
from lcl_core.encoders.sandbox import inspect_encoder
from lcl_core.serving.dynamic_batcher import BatchObserver
from lcl_core.serving.model_pool import ModelPool

if TYPE_CHECKING:
    from lcl_core.serving.batched_engine import BatchedEngine

MAX_OPEN_COLLECTIONS = 16
LoadChanges = Callable[[int], Sequence[ChangeRecord]]


class InferenceBackend:
    """Thread-safe. Calls block: routes make them in threads, beside the event loop."""

    def __init__(self, settings: ApiSettings, observe: BatchObserver) -> None:
        self._pool = ModelPool(
            max_bytes=settings.encoder_memory_bytes,
            observe=observe,
            precision=settings.inference_precision,
            texts_apart=settings.texts_apart,
            admit=self._examine_imported,
        )
        self._home = settings.home
        self._imported: set[Path] = set()
        self._collections: OrderedDict[Path, _OpenCollection] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def encoder_bytes(self) -> int:
        """Memory that encoders take."""
        return self._pool.loaded_bytes

    def encoder(self, directory: Path, registered: Hashes | None = None, *, imported: bool = False) -> BatchedEngine:
        """The encoder of a directory; the first call for it loads it.

        Args:
            registered: sha256 of its files by name, compared when it is loaded.
            imported: it came from somebody's folder, and is examined before it is loaded.

        Raises: UserError.
        """
        if imported and directory not in self._imported:
            self._imported |= {directory, directory.resolve()}  # the pool asks by the second
        return self._pool.get(directory, registered)

    def drop(self, directory: Path) -> None:
        """Give up an encoder that was deleted."""
        self._pool.drop(directory)
        self._imported -= {directory, directory.resolve()}

    def _examine_imported(self, directory: Path, registered: Hashes | None) -> None:
        """Raises: UserError of the examination."""
        if directory in self._imported:
            known = registered if registered and lists_all_files(registered) else None
            inspect_encoder(directory, memory=self._home / EXAMINATIONS_FOLDER, hashes=known)

    def collection(
        self, directory: Path, changes: int = 0, load: LoadChanges | None = None, ask: SearchFn | None = None
    ) -> Collection:
        """An opened collection with at least its first ``changes`` changes. A directory itself never changes.

        Args:
            load: asked for the changes above a number, where some are missing.
            ask: who looks up neighbours; none: they are looked up in the files.

        Raises: UserError, whatever ``load`` raises; ``collection_changed`` once a file is found to be another.
        """
        with self._lock:
            known = self._collections.get(directory)
            if known is None or known.checksums.is_outdated:
                self._collections[directory] = _OpenCollection(Collection.open(directory, ask=ask))
                for gone in [other for other in self._collections if not other.is_dir()]:
                    del self._collections[gone]  # folded or replaced: its mapped files still fill the disk
                while len(self._collections) > MAX_OPEN_COLLECTIONS:
                    self._collections.popitem(last=False)
            self._collections.move_to_end(directory)
            opened = self._collections[directory]
        opened.checksums.check()
        return opened.with_changes(changes, load)

    def close(self) -> None:
        self._pool.close()


class _OpenCollection:
    """A collection and the newest state of it that this process knows. Of one collection one thread loads at a time."""

    def __init__(self, base: Collection) -> None:
        self._base = base
        self.checksums = ChecksumVerifier(base.directory, base.manifest)
        self._overlay = Delta()
        self._now = base
        self._lock = threading.Lock()

    def with_changes(self, changes: int, load: LoadChanges | None) -> Collection:
        if self._overlay.number >= changes or load is None:  # the overlay is set last: the state is that far at least
            return self._now
        with self._lock:
            if self._overlay.number < changes:
                found = load(self._overlay.number)
                overlay = self._overlay.with_changes(found)
                if found:
                    self._now = CollectionWithDelta(self._base, overlay)
                # those that were folded into this directory count, but are not there to be seen
                self._overlay = replace(overlay, number=max(overlay.number, changes))
            return self._now
