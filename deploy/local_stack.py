"""Embedded deployment: broker, api, worker and ui as child processes of one launcher, on one home folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Self

from pydantic import TypeAdapter, ValidationError
from pydantic_settings import SettingsError

from api.client import Client
from api.client.transport import API_FILE
from api.core.settings import ApiSettings
from deploy.embedded_redis import EmbeddedBroker
from deploy.process import (
    LOOPBACK,
    ProcessStack,
    Service,
    free_port,
    listening_socket,
    responds,
)
from lcl_core.common.errors import UserError
from lcl_core.common.files import write_atomically
from lcl_core.common.gpus import torch_is_for_cpu
from lcl_core.common.paths import prepare_home
from lcl_core.common.processes import OFFLINE
from lcl_core.common.settings import check_setting_names, settings_error_message
from ui.settings import UiSettings, format_validation_error, load_or_create_token, url_with_token
from workers.settings import WorkerSettings


def read_settings(home: Path) -> tuple[ApiSettings, UiSettings, list[str]]:
    """Read what api, worker and page would read from this environment.

    Returns: settings of api and page, and warnings, one line each, about variables that no setting has.
    Raises: UserError ``bad_setting`` naming the variable, in one line.
    """
    warnings = check_setting_names(os.environ)
    try:
        api = ApiSettings(home=home)
        api.check_secrets()
        WorkerSettings(home=home)
    except ValidationError as error:
        raise UserError(settings_error_message(error), code="bad_setting") from error
    except SettingsError as error:
        raise UserError(str(error).splitlines()[0], code="bad_setting") from error
    try:
        page = UiSettings()
    except ValidationError as error:
        raise UserError(format_validation_error(error), code="bad_setting") from error
    return api, page, warnings


START_SECONDS = 120.0
LOCK_FILE = "launcher.lock"  # in the home; locked by its launcher
RESPONSE_SECONDS = 2.0  # the sockets listen before a process accepts, so a request may wait
UI_ENV = {"GRADIO_ANALYTICS_ENABLED": "False", **OFFLINE}


def ui_token(home: Path) -> str:
    """Token of the page: ``LCL_UI_TOKEN``, else the one in ``home``.

    Empty in a team, whose members sign in, and where ``LCL_UI_TOKEN`` is set and empty.
    """
    if TypeAdapter(bool).validate_python(os.environ.get("LCL_TEAM") or False):
        return ""
    token = os.environ.get("LCL_UI_TOKEN")
    return load_or_create_token(home) if token is None else token


class LocalStack:
    """A context manager: after entry every part responds, after exit none runs.

    Args:
        home: ``LCL_HOME``; created if missing. One launcher at a time may use it.
        log: receives one line an event.
        hurry: polled while stopping; True skips the grace period.
        ports: preferred for api and page; others are taken when these are in use, or 0. None: those of the settings.

    After entry, ``check`` restarts what has died; before, a death ends the start.

    Raises (on entry):
        UserError: ``bad_setting``, ``home_unusable``, ``conflict``, ``process_died``.
    """

    def __init__(
        self,
        home: Path,
        log: Callable[[str], None],
        hurry: Callable[[], bool] = lambda: False,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.stack = ProcessStack(self.home / "logs", hurry, log)
        self._log = log
        self._ports = ports
        self._lock: IO[str] | None = None
        self._ray_folder: tempfile.TemporaryDirectory[str] | None = None
        self._sockets: list[socket.socket] = []
        self.api_url = self.page_url = self._page_token = ""

    def __enter__(self) -> Self:
        settings, page_settings, warnings = read_settings(self.home)
        for warning in warnings:
            self._log(f"warning: {warning}")
        prepare_home(self.home)
        self._lock = (self.home / LOCK_FILE).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            message = f"another launcher uses {self.home}; end it, or set LCL_HOME to another folder"
            raise UserError(message, code="conflict") from None
        try:
            self._start(settings, page_settings)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def key_file(self) -> Path:
        return self.home / "key"

    @property
    def key_source(self) -> str:
        """Where the admin's key is given: ``LCL_ADMIN_KEY``, which revokes the one in the home's file, or that file."""
        return "LCL_ADMIN_KEY" if ApiSettings(home=self.home).admin_key.get_secret_value() else str(self.key_file)

    @property
    def page_address(self) -> str:
        """URL of the page, on one machine with its token."""
        return url_with_token(self.page_url, self._page_token)

    def client(self) -> Client:
        """Client with the admin's key."""
        return Client(self.api_url, ApiSettings(home=self.home).read_admin_key())

    def pids(self) -> dict[str, int]:
        """Process id of each part, by name."""
        return {child.name: child.process.pid for child in self.stack.children}

    def check(self) -> None:
        """Restart what has died, and log it. Call it often."""
        self.stack.restart_dead()

    def _write_address(self, address: str) -> None:
        """For clients of this home, which so find the service on whatever port it listens."""
        write_atomically(self.home / API_FILE, f"{address}\n", mode=0o600, durable=False)

    def _start(self, settings: ApiSettings, page_settings: UiSettings) -> None:
        api_port, page_port = self._ports or (settings.api_port, page_settings.port)
        api_socket = self._listen("LCL_API_HOST", settings.api_host, api_port)
        page_socket = self._listen("LCL_UI_HOST", page_settings.host, page_port)
        self.api_url, self.page_url = _local_url(api_socket), _local_url(page_socket)
        self._write_address(self.api_url)
        shared = {
            "LCL_HOME": str(self.home),
            "LCL_DATABASE_URL": settings.resolved_database_url,
            "LCL_BROKER_URL": settings.broker_url or self._start_broker(),
        }
        api = {**shared, "LCL_API_PORT": str(_port(api_socket))}
        sockets = {"LCL_API_SOCKET": api_socket}
        self.stack.start(Service("api", ("python", "-m", "api"), api, grace=10, sockets=sockets))
        worker = shared | self._start_ray() | self._offers()
        # longer than the worker waits for its job processes, so that the worker ends them
        grace = settings.worker_stop_seconds
        self.stack.start(Service("worker", ("python", "-m", "workers"), worker, grace=grace))
        page = {**UI_ENV, "LCL_HOME": str(self.home), "LCL_API_URL": self.api_url}
        if not settings.team:  # LCL_API_KEY of the launcher's environment may be the key of another service
            page["LCL_API_KEY"] = settings.read_admin_key()
        self._page_token = ui_token(self.home)
        page |= {"LCL_UI_PORT": str(_port(page_socket)), "LCL_UI_TOKEN": self._page_token}
        sockets = {"LCL_UI_SOCKET": page_socket}
        self.stack.start(Service("ui", ("python", "-m", "ui"), page, grace=5, sockets=sockets))
        self._wait(f"{self.api_url}/healthz", "the api")
        self._wait(f"{self.page_url}/healthz", "the page")
        self._wait(f"{self.api_url}/readyz", "the worker")

    def _start_broker(self) -> str:
        broker = EmbeddedBroker(self.home)
        self.stack.add(broker)
        return broker.url

    def _offers(self) -> dict[str, str]:
        """The worker offers no GPU where its torch is built for the CPU, unless the environment says what it offers."""
        settings = WorkerSettings(home=self.home)
        if settings.worker_offers or settings.executor != "local" or not torch_is_for_cpu():
            return {}
        if shutil.which("nvidia-smi"):
            self._log("torch is built for the CPU, so runs use no GPU of this machine")
        return {"LCL_WORKER_OFFERS": "cpu"}

    def _start_ray(self) -> dict[str, str]:
        """Start a Ray cluster of this machine where runs go to Ray and no other cluster is named.

        Returns: environment of the worker. Its runs end with the cluster, so they do not outlive it.
        """
        settings = WorkerSettings(home=self.home)
        if settings.executor != "ray" or "ray_address" in settings.model_fields_set:
            return {}
        if find_spec("ray") is None:
            raise UserError("EXECUTOR=ray needs Ray: .venv/bin/pip install 'lcl[ray]'", code="executor_missing")
        address = f"{LOOPBACK}:{free_port(0)}"
        self._ray_folder = tempfile.TemporaryDirectory(prefix="lcl-ray-")  # paths of sockets are short ones
        command = (
            *("python", "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *("--include-dashboard=false", f"--node-ip-address={LOOPBACK}", f"--port={address.rpartition(':')[2]}"),
            f"--temp-dir={self._ray_folder.name}",
        )
        self.stack.start(Service("ray", command, {"RAY_USAGE_STATS_ENABLED": "0"}, grace=15))
        return {"LCL_RAY_ADDRESS": address, "LCL_RAY_DETACH": "false"}

    def _listen(self, setting: str, host: str, port: int) -> socket.socket:
        """Raises: UserError ``bad_setting``, which names ``setting``, for a host that this machine cannot listen on."""
        try:
            listener = listening_socket(port, host)
        except (OSError, UnicodeError) as error:  # UnicodeError: text that cannot be a host name
            message = f"{setting}: this machine cannot listen on {host!r}; name an address that it has, or 0.0.0.0"
            raise UserError(message, code="bad_setting") from error
        self._sockets.append(listener)
        if port and _port(listener) != port:
            self._log(f"port {port} is not available; taking {_port(listener)}")
        return listener

    def _wait(self, url: str, what: str) -> None:
        self.stack.wait_until(lambda: responds(url, RESPONSE_SECONDS), what, START_SECONDS)

    def _stop(self) -> None:
        self.stack.stop()
        while self._sockets:
            self._sockets.pop().close()
        if self._ray_folder:
            self._ray_folder.cleanup()
            self._ray_folder = None
        if self._lock:
            self._write_address("")  # the port may be another user's from now on
            self._lock.close()
            self._lock = None


def _local_url(listener: socket.socket) -> str:
    """Address at which this machine reaches the socket; loopback for one that listens on all interfaces."""
    host = str(listener.getsockname()[0])
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{_port(listener)}"


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])
