"""Pool of encoders in memory within a budget: loaded on demand, least recently used removed. Imports no torch."""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lcl_core import encoders
from lcl_core.common.errors import UserError
from lcl_core.encoders.file_hashes import RELEVANT_SUFFIXES, Hashes
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.dynamic_batcher import BatchObserver

if TYPE_CHECKING:
    from lcl_core.common.device import Precision

Load = Callable[[Path, Hashes | None], BatchedEngine]
Measure = Callable[[Path], int]
Admit = Callable[[Path, Hashes | None], None]
FilesStamp = tuple[Path, tuple[tuple[str, int, int], ...]]
DEFAULT_BYTES = 4 << 30
MAX_CHANGED = 64  # directories with files of another content whose refusal is kept


class ModelPool:
    """Keeps encoders of at most ``max_bytes`` together; a removed one lives until its last reference goes. Thread-safe.

    Encoders are removed before another is loaded. One with a file replaced on disk is loaded anew at the next ``get``.

    Args:
        max_bytes: of their weights; an encoder that alone takes more is refused.
        device, precision: as EncoderEngine's.
        load: loads the BatchedEngine of a directory with the registered hashes of its files; none: ``open_engine`` with
            the usual limits.
        measure: bytes that an encoder is going to take; none: ``estimate_memory``.
        observe: called after each batch, unless ``load`` is given.
        texts_apart: as BatchedEngine's.
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
        texts_apart: bool = False,
        admit: Admit | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self._admit = admit or (lambda directory, registered: None)
        self._load = load or _loader(device, precision, observe, texts_apart)
        self._measure = measure or (lambda directory: encoders.estimate_memory(directory, device, precision))
        self._slots: OrderedDict[FilesStamp, _Slot] = OrderedDict()
        self._changed: OrderedDict[FilesStamp, str] = OrderedDict()
        self._alive: WeakKeyDictionary[BatchedEngine, int] = WeakKeyDictionary()
        self._lock = threading.Lock()
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
        """Calls of ``get`` that wait for an encoder to be examined and loaded."""
        with self._lock:
            return self._waiting

    def get(self, directory: str | Path, registered: Hashes | None = None, *, evict: bool = True) -> BatchedEngine:
        """The encoder of ``directory``, loaded if need be; callers that come meanwhile wait for that load.

        Args:
            registered: sha256 of its files by name, with which they are compared when it is loaded.
            evict: others may leave for it.

        Raises:
            UserError: as EncoderEngine; a later ``get`` tries again. ``encoder_too_large`` for one that is larger than
                the budget, ``encoder_changed`` until the files are others, ``pool_full`` where it fits only in place of
                others and may not evict them, ``pool_closed`` after ``close``.
        """
        stamp = _files_stamp(Path(directory))
        with self._lock:
            slot = self._known(stamp)
            if slot is not None and slot.session is not None:
                return slot.session
            self._waiting += 1
        try:
            return self._loaded(stamp, registered, evict)
        finally:
            with self._lock:
                self._waiting -= 1

    def _loaded(self, stamp: FilesStamp, registered: Hashes | None, evict: bool) -> BatchedEngine:
        slot = self._slot(stamp, registered, evict)
        try:
            session = slot.load(self._load, stamp[0], registered)
            with self._lock:
                self._alive[session] = slot.bytes
            return session
        except BaseException as error:
            with self._lock:
                if self._slots.get(stamp) is slot:
                    del self._slots[stamp]
                if isinstance(error, UserError) and error.code == "encoder_changed":
                    self._remember_changed(stamp, error.message)
            raise

    def drop(self, directory: str | Path) -> None:
        """Give up an encoder that nobody will ask for any more; who uses it now may go on."""
        path = Path(directory).resolve()
        with self._lock:
            for stamp in [stamp for stamp in self._slots if stamp[0] == path]:
                del self._slots[stamp]

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
            raise UserError("the service is closing; send the request again", code="pool_closed")
        if stamp in self._slots:
            self._slots.move_to_end(stamp)
        elif stamp in self._changed:  # to hash the files with every request would take seconds each
            raise UserError(self._changed[stamp], code="encoder_changed")
        return self._slots.get(stamp)

    def _remember_changed(self, stamp: FilesStamp, message: str) -> None:
        self._changed[stamp] = message
        while len(self._changed) > MAX_CHANGED:
            self._changed.popitem(last=False)

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
                raise UserError("the service is closing; send the request again", code="pool_closed")
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


def _loader(device: str, precision: Precision, observe: BatchObserver | None, texts_apart: bool) -> Load:
    def load(directory: Path, registered: Hashes | None) -> BatchedEngine:
        open_engine = encoders.open_engine  # imports torch
        _freeze_garbage_collector()
        return BatchedEngine(
            open_engine(directory, device, precision, registered), observe=observe, texts_apart=texts_apart
        )

    return load


@cache
def _freeze_garbage_collector() -> None:
    """Exempt imported modules from collection: a pass over all of PyTorch would stop every thread for half a second."""
    gc.collect()
    gc.freeze()
