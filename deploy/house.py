"""The embedded default: broker, api, worker and page as children of one process, on one folder."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from api.client import Client
from deploy.broker import EmbeddedBroker
from deploy.child import Service
from deploy.ports import LOOPBACK, free_port
from deploy.stack import Stack, answers, never
from lcl_core.errors import UserError
from lcl_core.offline import OFFLINE
from lcl_core.settings import Settings

API_PORT, UI_PORT = 8765, 7865
START_SECONDS = 120.0
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", **OFFLINE}


class House:
    """A context manager: after entry everything answers, after exit nothing runs any more.

    Args:
        home: ``LCL_HOME``; made if missing. One launcher at a time may use it.
        say: told what happens, one line each.
        hurry: asked while stopping; True skips the grace.
        ports: wished for the api and the page; others are taken when these are in use, or 0.

    Raises (on entry):
        UserError: ``home_busy``, ``not_ready``, or a child's ChildDied.
    """

    def __init__(
        self,
        home: Path,
        say: Callable[[str], None],
        hurry: Callable[[], bool] = never,
        ports: tuple[int, int] = (API_PORT, UI_PORT),
    ) -> None:
        self.home = home.resolve()
        self.stack = Stack(self.home / "logs", hurry)
        self._say = say
        self._ports = ports
        self._broker: EmbeddedBroker | None = None
        self._lock: IO[str] | None = None
        self.api_url = self.page_url = ""

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hold_home()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def key_file(self) -> Path:
        return self.home / "key"

    def client(self) -> Client:
        """A client with the key that the api made at its first start."""
        return Client(self.api_url, self.key_file.read_text(encoding="ascii").strip())

    def _hold_home(self) -> None:
        self._lock = (self.home / "launcher.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(
                f"another launcher is at work on {self.home}; end it, or set LCL_HOME to another folder",
                code="home_busy",
            ) from None

    def check(self) -> None:
        """Raises: UserError when the broker or a child has ended by itself."""
        if self._broker:
            self._broker.check()
        self.stack.check()

    def _start(self) -> None:
        settings = Settings(home=self.home)
        api_port, ui_port = (self._port(wished) for wished in self._ports)
        self.api_url = f"http://{LOOPBACK}:{api_port}"
        self.page_url = f"http://{LOOPBACK}:{ui_port}"
        shared = {
            "LCL_HOME": str(self.home),
            "LCL_DATABASE_URL": settings.resolved_database_url,
            "LCL_BROKER_URL": settings.broker_url or self._start_broker(),
        }
        api = {**shared, "LCL_API_HOST": LOOPBACK, "LCL_API_PORT": str(api_port)}
        self.stack.start(Service("api", ("python", "-m", "api"), api, grace=10))
        # longer than the worker itself waits for a run's process, so that it is the one to end it
        grace = settings.cancel_grace_seconds + 10
        self.stack.start(Service("worker", ("python", "-m", "workers"), shared, grace=grace))
        self._wait(lambda: answers(f"{self.api_url}/healthz"), "the api")
        page = {**QUIET, "LCL_HOME": str(self.home), "LCL_API_URL": self.api_url}
        page |= {"LCL_UI_HOST": LOOPBACK, "LCL_UI_PORT": str(ui_port)}
        self.stack.start(Service("ui", ("python", "-m", "ui"), page, grace=5))
        self._wait(lambda: answers(self.page_url), "the page")
        self._wait(lambda: answers(f"{self.api_url}/readyz"), "the worker")

    def _start_broker(self) -> str:
        self._broker = EmbeddedBroker(self.home)
        self._broker.start()
        return self._broker.url

    def _port(self, wished: int) -> int:
        port = free_port(wished)
        if wished and port != wished:
            self._say(f"port {wished} is in use; taking {port}")
        return port

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        self.stack.wait_until(ready, what, START_SECONDS)

    def _stop(self) -> None:
        self.stack.stop()
        if self._broker:
            self._broker.stop()
            self._broker = None
        if self._lock:
            self._lock.close()
            self._lock = None
