"""Encoders in memory and open collections, shared by all requests. Imported when the first request needs it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from api.settings import ApiSettings
from lcl_core.serving.batcher import Observe
from lcl_core.serving.collection import Collection
from lcl_core.serving.pool import EncoderPool

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession

MAX_OPEN = 16


class Inference:
    """Thread-safe. Calls block: routes make them in threads, beside the event loop."""

    def __init__(self, settings: ApiSettings, observe: Observe) -> None:
        self._pool = EncoderPool(
            max_loaded=settings.loaded_encoders, observe=observe, precision=settings.inference_precision
        )
        self._collections: OrderedDict[Path, Collection] = OrderedDict()
        self._lock = threading.Lock()

    def encoder(self, directory: Path) -> BatchingSession:
        """The encoder of a directory; the first call for it loads it. Raises: UserError."""
        return self._pool.get(directory)

    def collection(self, directory: Path) -> Collection:
        """An opened collection. A directory never changes: indexing again makes another. Raises: UserError."""
        with self._lock:
            if directory not in self._collections:
                self._collections[directory] = Collection.open(directory)
                while len(self._collections) > MAX_OPEN:
                    self._collections.popitem(last=False)
            self._collections.move_to_end(directory)
            return self._collections[directory]

    def close(self) -> None:
        self._pool.close()
