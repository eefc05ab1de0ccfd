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
READY_POLL_SECONDS = 0.1
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0  # back-off between a death and the next start, doubled each time
HEALTHY_SECONDS = 60.0  # a process that lived so long restarts with the first back-off
_TAIL_BYTES = 8192


class ChildDied(UserError):
    """A child exited by itself; the message holds the end of its log."""

    code = "process_died"


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
    """A service in a process group of its own, so that Ctrl-C reaches only the launcher."""

    process: subprocess.Popen[bytes]

    def __init__(self, service: Service, logs: Path) -> None:
        self.service = service
        self.name = service.name
        self.log = logs / f"{service.name}.log"
        self._starts = self._log_start = 0

    def start(self) -> None:
        """Start the service; again, appending to its log, after the rest of the earlier process group is killed."""
        if self._starts:
            self._kill_group()
        else:
            self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.log.exists():
                self.log.replace(self.log.with_suffix(".log.old"))
        program = [sys.executable if word == "python" else word for word in self.service.command]
        numbers = {name: listener.fileno() for name, listener in self.service.sockets.items()}
        with self.log.open("ab", buffering=0) as log:
            if self._starts:
                with contextlib.suppress(OSError):  # a full disk must not prevent the start
                    log.write(f"=== started again, {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
            self._log_start = log.tell()
            self.process = subprocess.Popen(
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
        self._starts += 1

    def check(self) -> None:
        """Raises: ChildDied with exit status and the end of the log, if the process has exited."""
        status = self.process.poll()
        if status is None:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        tail = self.log_tail()
        ending = f" and ends:\n{tail}" if tail else ""
        raise ChildDied(f"{self.name} {how}; its log is {self.log}{ending}")

    def log_tail(self, lines: int = 15) -> str:
        """Last log lines of the present process."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            written = log.read().decode("utf-8", "replace")
        return "\n".join(f"    {line}" for line in written.splitlines()[-lines:])

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM, then SIGKILL to the group after the grace period or when ``hurry()`` is true."""
        if self._starts:
            deadline = time.monotonic() + self.service.grace
            self.process.terminate()
            while self.process.poll() is None and time.monotonic() < deadline and not hurry():
                time.sleep(EXIT_POLL_SECONDS)
            self._kill_group()
            self.process.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # the group is empty
            os.killpg(self.process.pid, signal.SIGKILL)


def responds(url: str, seconds: float = 5.0) -> bool:
    """Whether ``url`` responds with 200 within ``seconds``."""
    try:
        return httpx.get(url, timeout=seconds, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class _Restarts:
    """Deaths of a child in a row, and when it is started again."""

    started: float
    deaths: int = 0
    next_start: float | None = None  # None: it runs


class ProcessStack:
    """Child processes of one launcher, started in order and stopped in reverse.

    They die with the thread that starts them.

    Args:
        logs: folder of their logs.
        hurry: polled while stopping; True skips the rest of the grace period.
        log: receives one line for each death and each restart.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        logs: Path,
        hurry: Callable[[], bool] = lambda: False,
        log: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.logs = logs
        self.children: list[ChildProcess] = []
        self._restarts: dict[str, _Restarts] = {}  # by name
        self._hurry, self._log, self._clock = hurry, log, clock

    def start(self, service: Service) -> ChildProcess:
        child = ChildProcess(service, self.logs)
        self.add(child)
        return child

    def add(self, child: ChildProcess) -> None:
        self.children.append(child)
        child.start()

    def check(self) -> None:
        """Raises: ChildDied for the first child that has exited."""
        for child in self.children:
            child.check()

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Poll ``ready``. Raises: ChildDied, or UserError ``process_died`` after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise UserError(f"{what} did not come up within {seconds:.0f} s; see {self.logs}", code="process_died")
            time.sleep(READY_POLL_SECONDS)

    def restart_dead(self) -> None:
        """Detect deaths and start again what is due, with a growing pause, each child independently. Call it often."""
        for child in self.children:
            now = self._clock()
            state = self._restarts.setdefault(child.name, _Restarts(now))
            try:
                if state.next_start is None:
                    child.check()
                elif now >= state.next_start:
                    state.next_start, state.started = None, now
                    child.start()
                    self._log(f"{child.name} is started again")
            except (UserError, OSError) as death:
                state.deaths = 1 if now - state.started >= HEALTHY_SECONDS else state.deaths + 1
                pause = min(FIRST_SECONDS * 2 ** (state.deaths - 1), LONGEST_SECONDS)
                state.next_start = now + pause
                self._log(f"{str(death).splitlines()[0]}; starting it again in {pause:g} s")

    def stop(self) -> None:
        while self.children:
            self.children.pop().stop(self._hurry)
