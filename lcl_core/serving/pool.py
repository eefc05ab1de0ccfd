"""The encoders in memory: loaded on demand, once; the least recently used leaves first. Knows no torch."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lcl_core.errors import UserError
from lcl_core.serving.batcher import Observe
from lcl_core.serving.batching_session import BatchingSession

if TYPE_CHECKING:
    from lcl_core.train.device import Precision

Load = Callable[[Path], BatchingSession]
Stamp = tuple[Path, int, int]


class EncoderPool:
    """Thread-safe. At most ``max_loaded`` encoders stay; one that leaves lives until its last user lets go.

    An encoder whose weights were replaced on disk is loaded anew at the next ``get``.

    Args:
        max_loaded: at least 1.
        device, precision: as EncoderSession's.
        load: makes a BatchingSession of a directory; none: of whatever encoder lies there, with the usual limits.
        observe: told of each batch, unless ``load`` is given.
        texts_apart: as BatchingSession's.
    """

    def __init__(
        self,
        max_loaded: int = 2,
        device: str = "auto",
        load: Load | None = None,
        observe: Observe | None = None,
        precision: Precision = "fp32",
        texts_apart: bool = False,
    ) -> None:
        if max_loaded < 1:
            raise ValueError("max_loaded must be at least 1")
        self.max_loaded = max_loaded
        self._load = load or _loader(device, precision, observe, texts_apart)
        self._slots: OrderedDict[Stamp, _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def loaded(self) -> list[Path]:
        """Directories in memory, least recently used first."""
        with self._lock:
            return [stamp[0] for stamp, slot in self._slots.items() if slot.session is not None]

    def get(self, directory: str | Path) -> BatchingSession:
        """The encoder of ``directory``, loaded if need be; callers that come meanwhile wait for that load.

        Raises:
            UserError: as EncoderSession; a later ``get`` tries again. ``pool_closed`` after ``close``.
        """
        stamp = _stamp(Path(directory))
        slot = self._slot(stamp)
        try:
            return slot.load(self._load, stamp[0])
        except BaseException:
            with self._lock:
                if self._slots.get(stamp) is slot:
                    del self._slots[stamp]
            raise

    async def get_async(self, directory: str | Path) -> BatchingSession:
        """``get`` without blocking the event loop."""
        return await asyncio.to_thread(self.get, directory)

    def close(self) -> None:
        """Finish what waits, stop every owner thread and load nothing more."""
        with self._lock:
            self._closed = True
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            slot.close()

    def _slot(self, stamp: Stamp) -> _Slot:
        with self._lock:
            if self._closed:
                raise UserError("the service is closing; send the request again", code="pool_closed")
            if stamp not in self._slots:
                for other in [other for other in self._slots if other[0] == stamp[0]]:
                    del self._slots[other]
                while len(self._slots) >= self.max_loaded:
                    self._slots.popitem(last=False)
                self._slots[stamp] = _Slot()
            self._slots.move_to_end(stamp)
            return self._slots[stamp]


class _Slot:
    """One encoder's place: the first caller loads, the others wait."""

    def __init__(self) -> None:
        self.session: BatchingSession | None = None
        self._lock = threading.Lock()
        self._closed = False

    def load(self, load: Load, directory: Path) -> BatchingSession:
        with self._lock:
            if self._closed:
                raise UserError("the service is closing; send the request again", code="pool_closed")
            if self.session is None:
                self.session = load(directory)
            return self.session

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self.session is not None:
                self.session.close()


def _stamp(directory: Path) -> Stamp:
    """The directory, when its weights were last written, and their bytes."""
    path = directory.resolve()
    try:
        facts = [file.stat() for file in path.iterdir() if file.suffix == ".safetensors"]
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    if not facts:
        raise _unreadable(path, "there are none")
    return path, max(each.st_mtime_ns for each in facts), sum(each.st_size for each in facts)


def _unreadable(path: Path, reason: str | None) -> UserError:
    message = f"the weights cannot be read ({reason}); give the directory of a saved encoder"
    return UserError(message, code="encoder_unreadable", file=path)


def _loader(device: str, precision: Precision, observe: Observe | None, texts_apart: bool) -> Load:
    def load(directory: Path) -> BatchingSession:
        from lcl_core.serving.opening import open_session  # imports torch: only when an encoder is wanted
        from lcl_core.train.memory import keep_few_kernels

        keep_few_kernels()  # every batch has another shape
        _keep_modules()
        return BatchingSession(open_session(directory, device, precision), observe=observe, texts_apart=texts_apart)

    return load


@cache
def _keep_modules() -> None:
    """What was imported stays: to look through all of PyTorch for garbage would hold everybody up for half a second."""
    gc.collect()
    gc.freeze()
