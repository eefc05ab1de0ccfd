"""Tells workers that runs wait, behind the back of requests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from lcl_core.runs.doorbell import Doorbell

AT_ONCE = 4  # messages of one moment: a woken worker goes on to the next run by itself
MOMENT_SECONDS = 0.1
_MOST_WAITING = 64  # of a long rush the latest; whom no message reaches, workers find on their rounds
_CLOSE_SECONDS = 5.0


class Ringer:
    """Rings the doorbell in a thread of its own: the first time at once, in a rush a few times a moment.

    Its thread starts with the first ring and ends with ``close``.
    """

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._rung, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    async def ring(self, run_ids: Iterable[str]) -> None:
        """Ring for runs whose rows are committed. A coroutine because it needs no thread of the framework's."""
        with self._lock:
            self._waiting.extend(run_ids)
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._work, name="ringer", daemon=True)
                self._thread.start()
        self._rung.set()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._rung.wait()
            self._send()
            self._closing.wait(MOMENT_SECONDS)

    def _send(self) -> None:
        """The messages of one moment; one that does not get through says that the broker is down."""
        with self._lock:
            due = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            if not self._waiting:
                self._rung.clear()
        if not all(map(self._doorbell.ring, due)):
            with self._lock:
                self._waiting.clear()

    def close(self) -> None:
        """Send what waits, as far as a moment's messages go, and end the thread."""
        self._closing.set()
        self._rung.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
            self._send()
