"""One child process of the launcher: its log, its last words, its orderly end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lcl_core.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.05
_TAIL_BYTES = 8192


class ChildDied(UserError):
    """A child ended although nobody asked it to; the message holds its last log lines.

    Args:
        status: exit status, negative for the signal that killed it.
    """

    def __init__(self, message: str, status: int, code: str = "child_died") -> None:
        super().__init__(message, code=code)
        self.status = status


@dataclass(frozen=True)
class Service:
    """What to start.

    Args:
        name: also the name of its log file.
        command: program and arguments; ``python`` stands for this interpreter.
        environment: added to the launcher's own.
        grace: seconds between SIGTERM and SIGKILL.
        sockets: inherited by the process, which finds their numbers in the environment variables that are the keys.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = 10.0
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)


class Child:
    """A started service in a process group of its own, so that Ctrl-C reaches the launcher alone."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.log = logs / f"{service.name}.log"
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        self.process = self._started("wb")

    @property
    def name(self) -> str:
        return self.service.name

    def start(self) -> None:
        """Start the service again; its log goes on. What is left of the group of the process before is killed."""
        self._kill_group()
        self.process = self._started("ab")

    def give_up(self) -> None:
        """Close the service's sockets: who connects is refused instead of waiting for nobody."""
        self._kill_group()
        for listener in self.service.sockets.values():
            listener.close()

    def check(self) -> None:
        """Raises: ChildDied with exit status and last log lines, if the process is gone."""
        status = self.process.poll()
        if status is None:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        words = self.last_words()
        raise ChildDied(
            f"{self.name} {how}; its log is {self.log}" + (f" and ends:\n{words}" if words else ""), status
        )

    def last_words(self, lines: int = 15) -> str:
        """The end of what the present process has written."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            written = log.read().decode("utf-8", "replace")
        return "\n".join(f"    {line}" for line in written.splitlines()[-lines:])

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM, up to the grace (or until ``hurry()``), then SIGKILL to whatever is left of the group."""
        if self.process.poll() is None:
            self.process.terminate()
            wait_for(self.process, self.service.grace, hurry)
        self._kill_group()
        self.process.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody is left, which is the aim
            os.killpg(self.process.pid, signal.SIGKILL)

    def _started(self, mode: str) -> subprocess.Popen[bytes]:
        program = [sys.executable if word == "python" else word for word in self.service.command]
        numbers = {name: listener.fileno() for name, listener in self.service.sockets.items()}
        with self.log.open(mode, buffering=0) as log:
            if mode == "ab":
                with contextlib.suppress(OSError):  # a full disk must not keep the service down
                    log.write(f"=== started again, {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
            self._log_start = log.tell()
            return subprocess.Popen(
                [sys.executable, "-m", "deploy.tether", str(os.getpid()), *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    **self.service.environment,
                    **{name: str(number) for name, number in numbers.items()},
                },
                pass_fds=tuple(numbers.values()),
                process_group=0,
            )


def wait_for(process: subprocess.Popen[bytes], seconds: float, hurry: Callable[[], bool]) -> None:
    """Return when the process has left, the time is over or ``hurry()`` says so."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not hurry():
        time.sleep(POLL_SECONDS)
