"""Encoders in memory and open collections, shared by all requests. Imported when the first request needs it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from api.encoder_files import EXAMINED
from api.settings import ApiSettings
from lcl_core.interop.identity import Hashes, is_complete
from lcl_core.serving.batcher import Observe
from lcl_core.serving.changed import ChangedCollection
from lcl_core.serving.changes import Change
from lcl_core.serving.checksums import ChecksumCheck
from lcl_core.serving.collection import Collection
from lcl_core.serving.elsewhere import Ask
from lcl_core.serving.examination import examine
from lcl_core.serving.overlay import Overlay
from lcl_core.serving.pool import EncoderPool

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession

MAX_OPEN = 16
Load = Callable[[int], Sequence[Change]]


class Inference:
    """Thread-safe. Calls block: routes make them in threads, beside the event loop."""

    def __init__(self, settings: ApiSettings, observe: Observe) -> None:
        self._pool = EncoderPool(
            max_bytes=settings.encoder_memory_bytes,
            observe=observe,
            precision=settings.inference_precision,
            texts_apart=settings.texts_apart,
            admit=self._admit,
        )
        self._home = settings.home
        self._imported: set[Path] = set()
        self._collections: OrderedDict[Path, _Open] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def encoder_bytes(self) -> int:
        """Memory that encoders take."""
        return self._pool.loaded_bytes

    def encoder(self, directory: Path, registered: Hashes | None = None, *, imported: bool = False) -> BatchingSession:
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

    def _admit(self, directory: Path, registered: Hashes | None) -> None:
        """Raises: UserError of the examination."""
        if directory in self._imported:
            known = registered if registered and is_complete(registered) else None
            examine(directory, memory=self._home / EXAMINED, hashes=known)

    def collection(
        self, directory: Path, changes: int = 0, load: Load | None = None, ask: Ask | None = None
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
                self._collections[directory] = _Open(Collection.open(directory, ask=ask))
                for gone in [other for other in self._collections if not other.is_dir()]:
                    del self._collections[gone]  # folded or replaced: its mapped files still fill the disk
                while len(self._collections) > MAX_OPEN:
                    self._collections.popitem(last=False)
            self._collections.move_to_end(directory)
            opened = self._collections[directory]
        opened.checksums.check()
        return opened.after(changes, load)

    def close(self) -> None:
        self._pool.close()


class _Open:
    """A collection and the newest state of it that this process knows. Of one collection one thread loads at a time."""

    def __init__(self, base: Collection) -> None:
        self._base = base
        self.checksums = ChecksumCheck(base.directory, base.manifest)
        self._overlay = Overlay()
        self._now = base
        self._lock = threading.Lock()

    def after(self, changes: int, load: Load | None) -> Collection:
        if self._overlay.number >= changes or load is None:  # the overlay is set last: the state is that far at least
            return self._now
        with self._lock:
            if self._overlay.number < changes:
                found = load(self._overlay.number)
                overlay = self._overlay.after(found)
                if found:
                    self._now = ChangedCollection(self._base, overlay)
                # those that were folded into this directory count, but are not there to be seen
                self._overlay = replace(overlay, number=max(overlay.number, changes))
            return self._now
