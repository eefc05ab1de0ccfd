"""Child processes of the launcher: listening sockets, start, logs, readiness, restart with back-off, shutdown."""

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
from typing import Protocol

import httpx

from lcl_core.common.errors import UserError

LOOPBACK = "127.0.0.1"
BACKLOG = 1024  # connections that wait while the process behind the socket is started


def listening_socket(preferred: int) -> socket.socket:
    """A socket that listens on ``preferred``, or on a port that the system chooses when that one is in use or 0.

    Nobody else can take the port afterwards: the socket is passed to the process that serves on it, and to its
    successor when it dies. Binding alone would not do, since Linux lets two sockets with SO_REUSEADDR bind one port
    as long as neither listens.

    Raises: OSError when no port can be had.
    """
    for port in dict.fromkeys((preferred, 0)):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            if port == 0:
                raise
            continue
        return listener
    raise AssertionError("unreachable: port 0 returns or raises")


def free_port(preferred: int) -> int:
    """``preferred`` if nobody listens there, otherwise one that the system calls free. It may be taken any moment."""
    with listening_socket(preferred) as probe:
        return int(probe.getsockname()[1])


PROJECT = Path(__file__).resolve().parent.parent
EXIT_POLL_SECONDS = 0.05
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


class ChildProcess:
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

    def abandon(self) -> None:
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
        raise ChildDied(f"{self.name} {how}; its log is {self.log}" + (f" and ends:\n{words}" if words else ""), status)

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
            wait_for_exit(self.process, self.service.grace, hurry)
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
                [sys.executable, "-m", "deploy.pdeathsig", str(os.getpid()), *program],
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


def wait_for_exit(process: subprocess.Popen[bytes], seconds: float, hurry: Callable[[], bool]) -> None:
    """Return when the process has left, the time is over or ``hurry()`` says so."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not hurry():
        time.sleep(EXIT_POLL_SECONDS)


READY_POLL_SECONDS = 0.1


def never() -> bool:
    return False


class ProcessStack:
    """The launcher's children.

    Args:
        logs: folder of their logs.
        hurry: asked while stopping; True skips what is left of the grace.
    """

    def __init__(self, logs: Path, hurry: Callable[[], bool] = never) -> None:
        self.logs = logs
        self.children: list[ChildProcess] = []
        self._hurry = hurry

    def start(self, service: Service) -> ChildProcess:
        child = ChildProcess(service, self.logs)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Raises: ChildDied for the first child that is gone."""
        for child in self.children:
            child.check()

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Poll ``ready``. Raises: ChildDied, or UserError ``not_ready`` after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise UserError(f"{what} did not come up within {seconds:.0f} s; see {self.logs}", code="not_ready")
            time.sleep(READY_POLL_SECONDS)

    def stop(self) -> None:
        while self.children:
            self.children.pop().stop(self._hurry)


def responds(url: str, seconds: float = 5.0) -> bool:
    """True when ``url`` answers 200 within ``seconds``."""
    try:
        return httpx.get(url, timeout=seconds, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0  # between a death and the next start; doubled from one to the other
HEALTHY_SECONDS = 60.0  # a process that lived so long begins with the first pause again
MAX_DEATHS = 10  # in a row, none of them after a healthy time: about four minutes with the pauses
WRONG_SETTINGS = 2  # exit status by which a process says that its settings are wrong


class Restartable(Protocol):
    """A process that can be started again."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raises: ChildDied."""

    def start(self) -> None:
        """Raises: UserError, OSError."""

    def abandon(self) -> None:
        """Called when it will not be started any more."""


@dataclass
class _Watched:
    part: Restartable
    started: float
    deaths: int = 0
    again_at: float | None = None
    last_words: str = ""  # not empty: it is not started again

    def died(self, death: ChildDied | UserError | OSError, now: float) -> float | None:
        """Count a death. Returns: seconds until the next start; None when there is to be none."""
        self.deaths = 1 if now - self.started >= HEALTHY_SECONDS else self.deaths + 1
        if getattr(death, "status", None) == WRONG_SETTINGS or self.deaths >= MAX_DEATHS:
            return None
        return min(FIRST_SECONDS * 2 ** (self.deaths - 1), LONGEST_SECONDS)


class Restarter:
    """Watches parts; ``tend`` is to be called often, from the thread that started them (they die with it).

    Args:
        say: gets one line for each death and each restart, and the last words of a part that is given up.
        clock: seconds that only grow.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._watched: list[_Watched] = []

    def watch(self, part: Restartable) -> None:
        """Take care of a part that has just been started."""
        self._watched.append(_Watched(part, self._clock()))

    def check(self) -> None:
        """Notice deaths, and start again what is due. Each part by itself: the others go on."""
        for watched in self._watched:
            if not watched.last_words:
                self._tend(watched)

    def require_all(self) -> None:
        """Raises: UserError ``child_died`` for a part that is not started again, with its last words."""
        for watched in self._watched:
            if watched.last_words:
                raise UserError(watched.last_words, code="child_died")

    def _tend(self, watched: _Watched) -> None:
        now = self._clock()
        try:
            if watched.again_at is None:
                watched.part.check()
            elif now >= watched.again_at:
                watched.again_at, watched.started = None, now
                watched.part.start()
                self._say(f"{watched.part.name} is started again")
        except (UserError, OSError) as death:
            self._after(watched, death, now)

    def _after(self, watched: _Watched, death: UserError | OSError, now: float) -> None:
        pause = watched.died(death, now)
        if pause is not None:
            watched.again_at = now + pause
            self._say(f"{str(death).splitlines()[0]}; starting it again in {pause:g} s")
            return
        times = "its settings are wrong" if watched.deaths < MAX_DEATHS else f"it died {watched.deaths} times in a row"
        watched.last_words = f"{watched.part.name} is not started again, since {times}: {death}"
        watched.part.abandon()
        self._say(f"{watched.last_words}\nThe other parts go on; mend the cause, then end and start the launcher.")
