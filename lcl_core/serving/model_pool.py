"""Pool of encoders in memory within a budget: loaded on demand, least recently used removed. Imports no torch."""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from lcl_core import encoders
from lcl_core.common.errors import Busy, UserError
from lcl_core.common.system_errors import as_exception
from lcl_core.encoders.files import RELEVANT_SUFFIXES, Hashes
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.dynamic_batcher import BatchObserver, failed_future

if TYPE_CHECKING:
    from lcl_core.common.device import Precision

Load = Callable[[Path, Hashes | None], BatchedEngine]
Measure = Callable[[Path], int]
Admit = Callable[[Path, Hashes | None], None]
FilesStamp = tuple[Path, tuple[tuple[str, int, int], ...]]
_LoadKey = tuple[FilesStamp, bool]  # whether others may leave for it
DEFAULT_BYTES = 4 << 30
FAILURE_SECONDS = 10.0  # for which a failed load is reported again without another attempt
MAX_LOADS = 4  # encoders that are read at one time


class ModelPool:
    """Keeps encoders of at most ``max_bytes`` together; a removed one lives until its last reference goes. Thread-safe.

    Each is loaded in a thread of its own, so that callers need not wait in theirs (``start_loading``). Encoders are
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
        self._measure = measure or (lambda directory: encoders.estimate_memory(directory, device, precision))
        self._slots: OrderedDict[FilesStamp, _Slot] = OrderedDict()
        self._alive: WeakKeyDictionary[BatchedEngine, int] = WeakKeyDictionary()
        # Under way, and successful ones while anybody holds them: who waited gets the encoder even if it had to leave.
        self._loads: WeakValueDictionary[_LoadKey, Future[BatchedEngine]] = WeakValueDictionary()
        self._failures: dict[_LoadKey, tuple[float, Exception]] = {}  # until when they are reported again
        self._lock, self._reading = threading.Lock(), threading.BoundedSemaphore(MAX_LOADS)
        self._waiting = 0
        self._closed = False

    @property
    def loaded(self) -> list[Path]:
        """Directories in memory, least recently used first."""
        with self._lock:
            return [stamp[0] for stamp, slot in self._slots.items() if slot.session is not None]

    @property
    def loaded_bytes(self) -> int:
        """Of all encoders in memory, also of those that had to leave and somebody still uses."""
        with self._lock:
            return sum(list(self._alive.values()))

    @property
    def waiting(self) -> int:
        """Calls that wait for an encoder to be examined and loaded."""
        with self._lock:
            return self._waiting

    def get(self, directory: str | Path, registered: Hashes | None = None, *, evict: bool = True) -> BatchedEngine:
        """The encoder of ``directory``, loaded if need be; callers that come meanwhile wait for that load.

        Args:
            registered: sha256 of its files by name, with which they are compared when it is loaded.
            evict: others may leave for it.

        Raises:
            UserError: as EncoderEngine; a ``get`` after ``FAILURE_SECONDS``, or of other files, tries again.
                ``encoder_too_large`` for one that is larger than the budget, ``pool_full`` where it fits only in place
                of others and may not evict them, ``pool_closed`` after ``close``.
        """
        future = self.start_loading(directory, registered, evict=evict)
        if future.done():
            return future.result()
        with self.counted_wait():
            return future.result()

    def start_loading(
        self, directory: str | Path, registered: Hashes | None = None, *, evict: bool = True
    ) -> Future[BatchedEngine]:
        """The encoder to come; of one in memory, and of one that could not be loaded just now, the future is done.

        Args: as ``get``.

        Raises: UserError for files that cannot be listed, ``pool_closed``.
        """
        stamp = _files_stamp(Path(directory))
        key = (stamp, evict)
        with self._lock:
            slot = self._known(stamp)
            if slot is not None and slot.session is not None:
                future: Future[BatchedEngine] = Future()
                future.set_result(slot.session)
                return future
            if (failure := self._recent_failure(key)) is not None:
                return failed_future(failure)
            if (known := self._loads.get(key)) is not None:
                return known
            future = self._loads[key] = Future()
            future.set_running_or_notify_cancel()  # who waits no longer does not end the load for others
        thread = threading.Thread(
            target=self._load_in_thread, args=(key, registered, future), name=f"lcl-load-{stamp[0].name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no process may start another thread
            self._end_load(key, future, error)
        return future

    @contextmanager
    def counted_wait(self) -> Iterator[None]:
        """Around waiting for a future of ``start_loading``."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _load_in_thread(self, key: _LoadKey, registered: Hashes | None, future: Future[BatchedEngine]) -> None:
        stamp, evict = key
        try:
            session = self._loaded(stamp, registered, evict)
        except BaseException as caught:  # a panic in Rust is no Exception, and somebody waits
            self._end_load(key, future, as_exception(caught))
        else:
            future.set_result(session)

    def _end_load(self, key: _LoadKey, future: Future[BatchedEngine], error: Exception) -> None:
        """Report a failure, and remember it without what its frames hold."""
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        with self._lock:
            self._loads.pop(key, None)
            self._failures[key] = (time.monotonic() + FAILURE_SECONDS, _fresh(error))
        future.set_exception(error)

    def _recent_failure(self, key: _LoadKey) -> Exception | None:
        now = time.monotonic()
        for old in [each for each, (until, _) in self._failures.items() if until <= now]:
            del self._failures[old]
        return _fresh(self._failures[key][1]) if key in self._failures else None

    def _loaded(self, stamp: FilesStamp, registered: Hashes | None, evict: bool) -> BatchedEngine:
        slot = self._slot(stamp, registered, evict)
        try:
            with self._reading:
                session = slot.load(self._load, stamp[0], registered)
            with self._lock:
                self._alive[session] = slot.bytes
            return session
        except BaseException:
            with self._lock:
                if self._slots.get(stamp) is slot:
                    del self._slots[stamp]
            raise

    def drop(self, directory: str | Path) -> None:
        """Give up an encoder that nobody will ask for any more; who uses it now may go on."""
        path = Path(directory).resolve()
        with self._lock:
            for stamp in [stamp for stamp in self._slots if stamp[0] == path]:
                del self._slots[stamp]
            for key in [key for key in self._loads if key[0][0] == path]:
                del self._loads[key]

    def close(self) -> None:
        """Finish what waits, stop every owner thread and load nothing more."""
        with self._lock:
            self._closed = True
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            slot.close()

    def _slot(self, stamp: FilesStamp, registered: Hashes | None, evict: bool) -> _Slot:
        with self._lock:
            found = self._known(stamp)
        if found is not None:
            return found
        self._admit(stamp[0], registered)
        size = self._size(stamp[0])
        with self._lock:
            return self._known(stamp) or self._place(stamp, size, evict)

    def _known(self, stamp: FilesStamp) -> _Slot | None:
        if self._closed:
            raise Busy("the service is closing; send the request again", code="pool_closed")
        if stamp in self._slots:
            self._slots.move_to_end(stamp)
        return self._slots.get(stamp)

    def _place(self, stamp: FilesStamp, size: int, evict: bool) -> _Slot:
        """A new encoder's place, for which others leave. Raises: UserError ``pool_full`` where they may not."""
        for other in [other for other in self._slots if other[0] == stamp[0]]:
            del self._slots[other]
        while self._slots and size + sum(slot.bytes for slot in self._slots.values()) > self.max_bytes:
            if not evict:
                raise UserError("other encoders fill the memory of LCL_ENCODER_MEMORY_BYTES", code="pool_full")
            self._slots.popitem(last=False)
        self._slots[stamp] = _Slot(size)
        return self._slots[stamp]

    def _size(self, directory: Path) -> int:
        size = self._measure(directory)
        if size > self.max_bytes:
            message = (
                f"this encoder takes {size:,} bytes of memory, and all together may take {self.max_bytes:,}; "
                "LCL_ENCODER_MEMORY_BYTES gives them more"
            )
            raise UserError(message, code="encoder_too_large", file=directory)
        return size


def _fresh(error: Exception) -> Exception:
    """An equal error without traceback and causes: each time that one is raised it keeps the frames it passes."""
    fresh = type(error).__new__(type(error), *error.args)
    fresh.__dict__.update(error.__dict__)
    return fresh


class _Slot:
    """One encoder's place: the first caller loads, the others wait."""

    def __init__(self, size: int) -> None:
        self.bytes = size
        self.session: BatchedEngine | None = None
        self._lock = threading.Lock()
        self._closed = False

    def load(self, load: Load, directory: Path, registered: Hashes | None) -> BatchedEngine:
        with self._lock:
            if self._closed:
                raise Busy("the service is closing; send the request again", code="pool_closed")
            if self.session is None:
                self.session = load(directory, registered)
            return self.session

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self.session is not None:
                self.session.close()


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
        open_engine = encoders.open_engine  # imports torch
        _freeze_garbage_collector()
        return BatchedEngine(open_engine(directory, device, precision, registered), observe=observe)

    return load


@cache
def _freeze_garbage_collector() -> None:
    """Exempt imported modules from collection: a pass over all of PyTorch would stop every thread for half a second."""
    gc.collect()
    gc.freeze()
