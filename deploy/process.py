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
BACKLOG = 1024  # connections that wait while the process behind the socket starts


def listening_socket(preferred: int, host: str = LOOPBACK) -> socket.socket:
    """Socket that listens on ``preferred``, or on a port chosen by the system when that one is in use or 0.

    The port stays reserved: the socket is passed to the serving process and to its successors. Binding is not enough,
    since Linux lets two sockets with SO_REUSEADDR bind one port as long as neither listens.

    Raises: OSError when no port is available, or ``host`` is no address of this machine.
    """
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    for port in dict.fromkeys((preferred, 0)):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            if port == 0:
                raise
            continue
        return listener
    raise AssertionError("unreachable: port 0 returns or raises")


def free_port(preferred: int) -> int:
    """``preferred`` if it is free, else a port chosen by the system. Another process may bind it any moment."""
    with listening_socket(preferred) as probe:
        return int(probe.getsockname()[1])


PROJECT = Path(__file__).resolve().parent.parent
EXIT_POLL_SECONDS = 0.05
_TAIL_BYTES = 8192


class ChildDied(UserError):
    """A child exited by itself; the message holds the end of its log.

    Args:
        status: exit status, negative for a signal.
    """

    def __init__(self, message: str, status: int, code: str = "child_died") -> None:
        super().__init__(message, code=code)
        self.status = status


@dataclass(frozen=True)
class Service:
    """A child process to start.

    Args:
        name: also the name of its log file.
        command: program and arguments; ``python`` stands for this interpreter.
        environment: added to the launcher's own.
        grace: seconds between SIGTERM and SIGKILL.
        sockets: inherited by the process; the keys are environment variables with their descriptors.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = 10.0
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)


class ChildProcess:
    """A started service in a process group of its own, so that Ctrl-C reaches only the launcher."""

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.log = logs / f"{service.name}.log"
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        self.process = self._spawn("wb")

    @property
    def name(self) -> str:
        return self.service.name

    def start(self) -> None:
        """Start the service again, appending to its log. The rest of the earlier process group is killed."""
        self._kill_group()
        self.process = self._spawn("ab")

    def abandon(self) -> None:
        """Close the service's sockets, so that connections are refused instead of waiting."""
        self._kill_group()
        for listener in self.service.sockets.values():
            listener.close()

    def check(self) -> None:
        """Raises: ChildDied with exit status and the end of the log, if the process has exited."""
        status = self.process.poll()
        if status is None:
            return
        tail = self.log_tail()
        ending = f" and ends:\n{tail}" if tail else ""
        raise ChildDied(f"{self.name} {describe_exit(status)}; its log is {self.log}{ending}", status)

    def log_tail(self, lines: int = 15) -> str:
        """Last log lines of the present process."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            written = log.read().decode("utf-8", "replace")
        return "\n".join(f"    {line}" for line in written.splitlines()[-lines:])

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM, then SIGKILL to the group after the grace period or when ``hurry()`` is true."""
        if self.process.poll() is None:
            self.process.terminate()
            wait_for_exit(self.process, self.service.grace, hurry)
        self._kill_group()
        self.process.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # the group is empty
            os.killpg(self.process.pid, signal.SIGKILL)

    def _spawn(self, mode: str) -> subprocess.Popen[bytes]:
        program = [sys.executable if word == "python" else word for word in self.service.command]
        numbers = {name: listener.fileno() for name, listener in self.service.sockets.items()}
        with self.log.open(mode, buffering=0) as log:
            if mode == "ab":
                with contextlib.suppress(OSError):  # a full disk must not prevent the start
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


def describe_exit(status: int) -> str:
    """``was killed by SIGKILL`` or ``ended with status 1``."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def wait_for_exit(process: subprocess.Popen[bytes], seconds: float, hurry: Callable[[], bool]) -> None:
    """Return when the process has exited, the time is over or ``hurry()`` is true."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not hurry():
        time.sleep(EXIT_POLL_SECONDS)


READY_POLL_SECONDS = 0.1


def never() -> bool:
    return False


class ProcessStack:
    """Child processes of one launcher, started in order and stopped in reverse.

    Args:
        logs: folder of their logs.
        hurry: polled while stopping; True skips the rest of the grace period.
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
        """Raises: ChildDied for the first child that has exited."""
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
    """Whether ``url`` responds with 200 within ``seconds``."""
    try:
        return httpx.get(url, timeout=seconds, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0  # back-off between a death and the next start, doubled each time
HEALTHY_SECONDS = 60.0  # a process that lived so long restarts with the first back-off
MAX_DEATHS = 10  # in a row, none of them after HEALTHY_SECONDS: about four minutes with the back-off
WRONG_SETTINGS = 2  # exit status of a process whose settings are wrong


class Restartable(Protocol):
    """A process that the Restarter checks and starts again."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raises: ChildDied."""

    def start(self) -> None:
        """Raises: UserError, OSError."""

    def abandon(self) -> None:
        """Called when it will not be started again."""


@dataclass
class _RestartState:
    part: Restartable
    started: float
    deaths: int = 0
    restart_at: float | None = None
    final_error: str = ""  # not empty: it is not started again

    def died(self, death: ChildDied | UserError | OSError, now: float) -> float | None:
        """Count a death. Returns: seconds until the next start, None for no restart."""
        self.deaths = 1 if now - self.started >= HEALTHY_SECONDS else self.deaths + 1
        if getattr(death, "status", None) == WRONG_SETTINGS or self.deaths >= MAX_DEATHS:
            return None
        return min(FIRST_SECONDS * 2 ** (self.deaths - 1), LONGEST_SECONDS)


class Restarter:
    """Restarts processes that have died. Call ``check`` often, from the thread that started them: they die with it.

    Args:
        log: receives one line for each death and each restart, and the error of a part that is not restarted.
        clock: monotonic seconds.
    """

    def __init__(self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._watched: list[_RestartState] = []

    def watch(self, part: Restartable) -> None:
        """Restart ``part`` when it dies. It has just been started."""
        self._watched.append(_RestartState(part, self._clock()))

    def check(self) -> None:
        """Detect deaths and start what is due, each part independently."""
        for state in self._watched:
            if not state.final_error:
                self._check(state)

    def require_all(self) -> None:
        """Raises: UserError ``child_died`` for a part that is not started again."""
        for state in self._watched:
            if state.final_error:
                raise UserError(state.final_error, code="child_died")

    def _check(self, state: _RestartState) -> None:
        now = self._clock()
        try:
            if state.restart_at is None:
                state.part.check()
            elif now >= state.restart_at:
                state.restart_at, state.started = None, now
                state.part.start()
                self._log(f"{state.part.name} is started again")
        except (UserError, OSError) as death:
            self._after(state, death, now)

    def _after(self, state: _RestartState, death: UserError | OSError, now: float) -> None:
        pause = state.died(death, now)
        if pause is not None:
            state.restart_at = now + pause
            self._log(f"{str(death).splitlines()[0]}; starting it again in {pause:g} s")
            return
        times = "its settings are wrong" if state.deaths < MAX_DEATHS else f"it died {state.deaths} times in a row"
        state.final_error = f"{state.part.name} is not started again, since {times}: {death}"
        state.part.abandon()
        self._log(f"{state.final_error}\nThe other parts go on; mend the cause, then end and start the launcher.")
