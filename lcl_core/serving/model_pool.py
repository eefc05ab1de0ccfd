"""Pool of encoders in memory within a budget: loaded on demand, least recently used removed. Imports no torch."""

from __future__ import annotations

import gc
import math
import os
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lcl_core.common.errors import Busy, UserError, as_exception
from lcl_core.encoders.files import RELEVANT_SUFFIXES, Hashes
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.dynamic_batcher import BatchObserver

if TYPE_CHECKING:
    from lcl_core.common.device import Precision

Load = Callable[[Path, Hashes | None], BatchedEngine]
Measure = Callable[[Path], int]
Admit = Callable[[Path, Hashes | None], None]
FilesStamp = tuple[Path, tuple[tuple[str, int, int], ...]]
DEFAULT_BYTES = 4 << 30
FAILURE_SECONDS = 10.0  # for which a failed load is reported again without another attempt
MAX_LOADS = 4  # encoders that are read at one time


@dataclass(slots=True)
class _Entry:
    """An encoder that is loaded, is being loaded, or could not be.

    Attributes:
        evict: whether others may leave for it.
        bytes: of its weights, once measured.
        failed_at: when its load failed.
    """

    evict: bool
    future: Future[BatchedEngine] = field(default_factory=Future)
    bytes: int = 0
    failed_at: float = math.inf


class ModelPool:
    """Keeps encoders of at most ``max_bytes`` together; a removed one lives until its last reference goes. Thread-safe.

    Each is loaded in a thread of its own: a load goes on when who asked for it waits no longer. Encoders are
    removed before another is loaded. One with a file replaced on disk is loaded anew at the next ``get``.

    Args:
        max_bytes: of their weights; an encoder that alone takes more is refused.
        device, precision: as EncoderEngine's.
        load: loads the BatchedEngine of a directory with the registered hashes of its files; none: ``open_engine`` with
            the usual limits.
        measure: bytes that an encoder is going to take; none: ``estimate_memory``.
        observe: called after each batch, unless ``load`` is given.
        admit: called before anything of a directory is read; raises what keeps its encoder out.
    """

    def __init__(
        self,
        max_bytes: int = DEFAULT_BYTES,
        device: str = "auto",
        load: Load | None = None,
        measure: Measure | None = None,
        observe: BatchObserver | None = None,
        precision: Precision = "fp32",
        admit: Admit | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self._admit = admit or (lambda directory, registered: None)
        self._load = load or _loader(device, precision, observe)
        self._measure = measure or (lambda directory: _engine().estimate_memory(directory, device, precision))
        self._entries: OrderedDict[FilesStamp, _Entry] = OrderedDict()
        # Also those that had to leave and somebody still uses: who waited for one finds it here. A dropped one has no
        # stamp.
        self._alive: WeakKeyDictionary[BatchedEngine, tuple[FilesStamp | None, int]] = WeakKeyDictionary()
        self._lock, self._reading = threading.Lock(), threading.BoundedSemaphore(MAX_LOADS)
        self._closed = False

    @property
    def loaded(self) -> list[Path]:
        """Directories in memory, least recently used first."""
        with self._lock:
            return [stamp[0] for stamp, entry in self._entries.items() if _is_loaded(entry)]

    @property
    def loaded_bytes(self) -> int:
        """Of all encoders in memory, also of those that had to leave and somebody still uses."""
        with self._lock:
            return sum(size for _, size in list(self._alive.values()))

    @property
    def loading(self) -> int:
        """Encoders that are being examined and loaded."""
        with self._lock:
            return sum(not entry.future.done() for entry in self._entries.values())

    def get(self, directory: str | Path, registered: Hashes | None = None, *, evict: bool = True) -> BatchedEngine:
        """The encoder of ``directory``, loaded if need be; callers that come meanwhile wait for that load.

        Args:
            registered: sha256 of its files by name, with which they are compared when it is loaded.
            evict: others may leave for it.

        Raises:
            UserError: as EncoderEngine; a ``get`` after ``FAILURE_SECONDS``, or of other files, tries again.
                ``too_large`` for one that is larger than the budget, ``busy`` where it fits only in place of others and
                may not evict them, and after ``close``.
        """
        return self._entry(Path(directory), registered, evict).future.result()

    def _entry(self, directory: Path, registered: Hashes | None, evict: bool) -> _Entry:
        """Of an encoder in memory, or on its way, or that could not be loaded just now; else its load begins."""
        stamp = _files_stamp(directory)
        with self._lock:
            if self._closed:
                raise _closing()
            entry = self._entries.get(stamp)
            if entry is not None and time.monotonic() < entry.failed_at + FAILURE_SECONDS:
                entry.evict |= evict
                self._entries.move_to_end(stamp)
                return entry
            entry = _Entry(evict)
            for session, (known, _) in list(self._alive.items()):
                if known == stamp:
                    entry.future.set_result(session)
                    return entry
            self._entries.pop(stamp, None)
            self._entries[stamp] = entry
        name = f"lcl-load-{stamp[0].name}"
        threading.Thread(target=self._load_in_thread, args=(stamp, entry, registered), name=name, daemon=True).start()
        return entry

    def _load_in_thread(self, stamp: FilesStamp, entry: _Entry, registered: Hashes | None) -> None:
        try:
            self._admit(stamp[0], registered)
            self._make_room(stamp, entry)
            with self._reading:
                session = self._load(stamp[0], registered)
            with self._lock:
                self._alive[session] = (stamp, entry.bytes)
                closed = self._closed
            if closed:
                session.close()
                raise _closing()
        except BaseException as caught:  # a panic in Rust is no Exception, and somebody waits
            cause: BaseException | None = caught
            while cause is not None:  # what its frames hold may be gigabytes
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__cause__ or cause.__context__
            with self._lock:
                entry.bytes, entry.failed_at = 0, time.monotonic()
                if not entry.evict and self._entries.get(stamp) is entry:
                    del self._entries[stamp]  # another caller may have others evicted for it
            entry.future.set_exception(as_exception(caught))
        else:
            entry.future.set_result(session)

    def _make_room(self, stamp: FilesStamp, entry: _Entry) -> None:
        """Raises: UserError ``too_large``, ``busy``."""
        size = self._measure(stamp[0])
        if size > self.max_bytes:
            message = (
                f"this encoder takes {size:,} bytes of memory, and all together may take {self.max_bytes:,}; "
                "LCL_ENCODER_MEMORY_BYTES gives them more"
            )
            raise UserError(message, code="too_large", file=stamp[0])
        with self._lock:
            for other in [each for each in self._entries if each[0] == stamp[0] and each != stamp]:
                del self._entries[other]
            others = [each for each in self._entries if each != stamp and self._entries[each].bytes]
            while others and size + sum(self._entries[each].bytes for each in others) > self.max_bytes:
                if not entry.evict:
                    raise UserError("other encoders fill the memory of LCL_ENCODER_MEMORY_BYTES", code="busy")
                del self._entries[others.pop(0)]
            entry.bytes = size

    def drop(self, directory: str | Path) -> None:
        """Give up an encoder that nobody will ask for any more; who uses it now may go on."""
        path = Path(directory).resolve()
        with self._lock:
            for stamp in [stamp for stamp in self._entries if stamp[0] == path]:
                del self._entries[stamp]
            for session, (known, size) in list(self._alive.items()):
                if known is not None and known[0] == path:
                    self._alive[session] = (None, size)

    def close(self) -> None:
        """Finish what waits, stop every owner thread and load nothing more."""
        with self._lock:
            self._closed = True
            entries = list(self._entries.values())
            self._entries.clear()
        for entry in filter(_is_loaded, entries):
            entry.future.result().close()


def _is_loaded(entry: _Entry) -> bool:
    return entry.future.done() and entry.future.exception() is None


def _closing() -> Busy:
    return Busy("the service is closing; send the request again")


def _files_stamp(directory: Path) -> FilesStamp:
    """The directory, and of each file that decides vectors the name, when it was last written, and its bytes.

    Made with every request, so it is made quickly.
    """
    path = os.path.realpath(directory)
    try:
        with os.scandir(path) as entries:
            found = [
                (entry.name, (facts := entry.stat()).st_mtime_ns, facts.st_size)
                for entry in entries
                if entry.name.endswith(RELEVANT_SUFFIXES)
            ]
    except OSError as error:
        raise _unreadable(Path(path), error.strerror) from error
    if not any(name.endswith(".safetensors") for name, _, _ in found):
        raise _unreadable(Path(path), "there are none")
    found.sort()
    return Path(path), tuple(found)


def _unreadable(path: Path, reason: str | None) -> UserError:
    message = f"the weights cannot be read ({reason}); give the directory of a saved encoder"
    return UserError(message, code="encoder_unreadable", file=path)


def _loader(device: str, precision: Precision, observe: BatchObserver | None) -> Load:
    def load(directory: Path, registered: Hashes | None) -> BatchedEngine:
        engine = _engine()
        _freeze_garbage_collector()
        return BatchedEngine(engine.open_engine(directory, device, precision, registered), observe=observe)

    return load


def _engine() -> Any:
    from lcl_core.encoders import engine  # imports torch

    return engine


@cache
def _freeze_garbage_collector() -> None:
    """Exempt imported modules from collection: a pass over all of PyTorch would stop every thread for half a second."""
    gc.collect()
    gc.freeze()
