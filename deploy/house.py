"""The embedded default: broker, api, worker and page as children of one process, on one folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pydantic import TypeAdapter

from api.client import Client
from api.settings import ApiSettings
from deploy.broker import EmbeddedBroker
from deploy.child import Service
from deploy.ports import LOOPBACK, listening_socket
from deploy.restarts import Restarter
from deploy.settings_check import check_settings
from deploy.stack import Stack, answers, never
from lcl_core.errors import UserError
from lcl_core.home_folder import open_home
from lcl_core.offline import OFFLINE
from ui.token_file import kept_token, with_token

API_PORT, UI_PORT = 8765, 7865
START_SECONDS = 120.0
ANSWER_SECONDS = 2.0  # the sockets listen before anybody accepts: a question may wait
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", **OFFLINE}


def page_token(home: Path) -> str:
    """What opens the page: the one of ``LCL_UI_TOKEN``, else the one that is kept in ``home``.

    Empty in a team, where one signs in, and where ``LCL_UI_TOKEN`` is set and empty.
    """
    if TypeAdapter(bool).validate_python(os.environ.get("LCL_TEAM") or False):
        return ""
    given = os.environ.get("LCL_UI_TOKEN")
    return kept_token(home) if given is None else given


class House:
    """A context manager: after entry everything answers, after exit nothing runs any more.

    Args:
        home: ``LCL_HOME``; made if missing. One launcher at a time may use it.
        say: told what happens, one line each.
        hurry: asked while stopping; True skips the grace.
        ports: wished for the api and the page; others are taken when these are in use, or 0.

    While it is up, ``check`` starts again what has died; until then a death ends the start.

    Raises (on entry):
        UserError: ``bad_setting``, ``insecure_secret``, ``home_unusable``, ``home_busy``, ``not_ready``, or a child's
            ChildDied.
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
        self._hurry = hurry
        self._ports = ports
        self._broker: EmbeddedBroker | None = None
        self._lock: IO[str] | None = None
        self._sockets: list[socket.socket] = []
        self._restarter = Restarter(say)
        self.api_url = self.page_url = self._page_token = ""

    def __enter__(self) -> Self:
        for warning in check_settings(self.home):
            self._say(f"warning: {warning}")
        settings = ApiSettings(home=self.home)
        open_home(self.home)
        self._hold_home()
        try:
            self._start(settings)
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

    @property
    def page_address(self) -> str:
        """What opens the page: on one machine with the token, without which it answers nothing."""
        return with_token(self.page_url, self._page_token)

    def client(self, timeout: float = 120.0, attempts: int = 4) -> Client:
        """A client with the key of the settings, else the one that the api made at its first start."""
        configured = ApiSettings(home=self.home).admin_key.get_secret_value()
        key = configured or self.key_file.read_text(encoding="ascii").strip()
        return Client(self.api_url, key, timeout=timeout, attempts=attempts)

    def pids(self) -> dict[str, int | None]:
        """The process of each part, by its name."""
        found: dict[str, int | None] = {child.name: child.process.pid for child in self.stack.children}
        return found | ({} if self._broker is None else {self._broker.name: self._broker.pid})

    def check(self) -> None:
        """Start again what has died, and say so. To be called often."""
        self._restarter.tend()

    def require_all(self) -> None:
        """As ``check``. Raises: UserError ``child_died`` when a part is not started again any more."""
        self._restarter.tend()
        self._restarter.require_all()

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

    def _start(self, settings: ApiSettings) -> None:
        api_socket, page_socket = (self._listen(wished) for wished in self._ports)
        self.api_url, self.page_url = (f"http://{LOOPBACK}:{_port_of(each)}" for each in (api_socket, page_socket))
        shared = {
            "LCL_HOME": str(self.home),
            "LCL_DATABASE_URL": settings.resolved_database_url,
            "LCL_BROKER_URL": settings.broker_url or self._start_broker(),
        }
        api = {**shared, "LCL_API_HOST": LOOPBACK, "LCL_API_PORT": str(_port_of(api_socket))}
        sockets = {"LCL_API_SOCKET": api_socket}
        self.stack.start(Service("api", ("python", "-m", "api"), api, grace=10, sockets=sockets))
        # longer than the worker itself waits for a run's process, so that it is the one to end it
        grace = settings.cancel_grace_seconds + 10
        self.stack.start(Service("worker", ("python", "-m", "workers"), shared, grace=grace))
        self._wait(f"{self.api_url}/healthz", "the api")
        page = {**QUIET, "LCL_HOME": str(self.home), "LCL_API_URL": self.api_url}
        self._page_token = page_token(self.home)
        page |= {"LCL_UI_HOST": LOOPBACK, "LCL_UI_PORT": str(_port_of(page_socket)), "LCL_UI_TOKEN": self._page_token}
        sockets = {"LCL_UI_SOCKET": page_socket}
        self.stack.start(Service("ui", ("python", "-m", "ui"), page, grace=5, sockets=sockets))
        self._wait(f"{self.page_url}/healthz", "the page")
        self._wait(f"{self.api_url}/readyz", "the worker")
        for part in (*((self._broker,) if self._broker else ()), *self.stack.children):
            self._restarter.watch(part)

    def _start_broker(self) -> str:
        self._broker = EmbeddedBroker(self.home)
        self._broker.start()
        return self._broker.url

    def _listen(self, wished: int) -> socket.socket:
        listener = listening_socket(wished)
        self._sockets.append(listener)
        if wished and _port_of(listener) != wished:
            self._say(f"port {wished} is in use; taking {_port_of(listener)}")
        return listener

    def _wait(self, url: str, what: str) -> None:
        self.stack.wait_until(lambda: answers(url, ANSWER_SECONDS), what, START_SECONDS)

    def _stop(self) -> None:
        self.stack.stop()
        if self._broker:
            self._broker.stop(self._hurry)
            self._broker = None
        while self._sockets:
            self._sockets.pop().close()
        if self._lock:
            self._lock.close()
            self._lock = None


def _port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])
