"""One child process of the launcher: its log, its last words, its orderly end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lcl_core.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.05


class ChildDied(UserError):
    """A child ended although nobody asked it to; the message holds its last log lines."""


@dataclass(frozen=True)
class Service:
    """What to start.

    Args:
        name: also the name of its log file.
        command: program and arguments; ``python`` stands for this interpreter.
        environment: added to the launcher's own.
        grace: seconds between SIGTERM and SIGKILL.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = 10.0


class Child:
    """A started service in a process group of its own, so that Ctrl-C reaches the launcher alone."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.log = logs / f"{service.name}.log"
        logs.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        program = [sys.executable if word == "python" else word for word in service.command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.tether", str(os.getpid()), *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **service.environment},
                process_group=0,
            )

    def check(self) -> None:
        """Raises: ChildDied with exit status and last log lines, if the process is gone."""
        status = self.process.poll()
        if status is None:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        words = self.last_words()
        raise ChildDied(
            f"{self.service.name} {how}; its log is {self.log}" + (f" and ends:\n{words}" if words else ""),
            code="child_died",
        )

    def last_words(self, lines: int = 15) -> str:
        text = self.log.read_bytes()[-8192:].decode("utf-8", "replace")
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM, up to the grace (or until ``hurry()``), then SIGKILL to whatever is left of the group."""
        if self.process.poll() is None:
            self.process.terminate()
            deadline = time.monotonic() + self.service.grace
            while self.process.poll() is None and time.monotonic() < deadline and not hurry():
                time.sleep(POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # nobody is left, which is the aim
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
