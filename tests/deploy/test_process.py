"""Children of the launcher: they end when they are told to, never outlive it, and are started again."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from deploy.process import (
    HEALTHY_SECONDS,
    PROJECT,
    ChildDied,
    ChildProcess,
    ProcessStack,
    Service,
    listening_socket,
)
from lcl_core.common.errors import UserError

OBEDIENT = """
import signal, sys
def leave(*_):
    with open(sys.argv[2], "a") as file:
        file.write(sys.argv[1] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
signal.pause()
"""
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
signal.pause()
"""
LISTENER = """
import os, signal, socket
listener = socket.socket(fileno=int(os.environ["PART_SOCKET"]))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(code, *arguments, **service):
        child = ChildProcess(Service("part", ("python", "-c", code, *arguments), **service), tmp_path / "logs")
        child.start()
        started.append(child)
        return child

    yield begin
    for child in started:
        child.stop(hurry=lambda: True)


@pytest.fixture
def stack(tmp_path):
    made = ProcessStack(tmp_path / "logs")
    yield made
    made.stop()


def test_children_are_told_to_end_the_last_started_first(stack, tmp_path, until):
    order = tmp_path / "order"
    for name in ("api", "worker", "ui"):
        child = stack.start(Service(name, ("python", "-c", OBEDIENT, name, str(order))))
        until(child.log_tail, f"{name} to be ready")
    stack.check()
    stack.stop()
    assert order.read_text(encoding="utf-8").split() == ["ui", "worker", "api"]
    assert not stack.children


@pytest.mark.parametrize(("grace", "hurry"), [(0.2, False), (3600, True)])
def test_a_stubborn_child_goes_with_its_family(start, until, is_running, grace, hurry):
    child = start(STUBBORN, grace=grace)
    until(child.log_tail, "the grandchild's number")
    grandchild = int(child.log_tail())
    assert is_running(grandchild)
    child.stop(hurry=lambda: hurry)
    assert child.process.returncode == -signal.SIGKILL
    until(lambda: not is_running(grandchild), "the grandchild's end")


def test_a_death_is_reported_with_the_signal_or_the_last_words(start, stack, until):
    child = start(STUBBORN)
    until(child.log_tail, "the child's first line")
    child.process.kill()
    child.process.wait()
    with pytest.raises(ChildDied, match="was killed by SIGKILL"):
        child.check()
    stack.start(Service("api", ("python", "-c", "raise SystemExit('no database')")))
    with pytest.raises(ChildDied, match=r"api ended with status 1; its log is .*api\.log and ends:\n.*no database"):
        stack.wait_until(lambda: False, "the api", seconds=60)


def test_a_child_dies_with_a_killed_launcher(tmp_path, until, is_running):
    code = (
        "import pathlib, signal, sys\n"
        "from deploy.process import ChildProcess, Service\n"
        "part = Service('part', ('python', '-c', 'import time; time.sleep(600)'))\n"
        "child = ChildProcess(part, pathlib.Path(sys.argv[1]))\n"
        "child.start()\n"
        "print(child.process.pid, flush=True)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as launcher:
        pid = int(launcher.stdout.readline())
        assert is_running(pid)
        launcher.kill()
    until(lambda: not is_running(pid), "the child's end after its parent's")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Mortal:
    """A child that is dead or alive as the test says."""

    def __init__(self, name="api"):
        self.name, self.alive, self.startable, self.starts = name, True, True, -1

    def check(self):
        if not self.alive:
            raise ChildDied(f"{self.name} ended with status 1; its log is x and ends:\n    why")

    def start(self):
        if not self.startable:
            raise UserError(f"{self.name} does not answer", code="process_died")
        self.starts += 1
        self.alive = True


@pytest.fixture
def watched(tmp_path):
    """A stack of two such children, its log, and its clock."""
    said, clock = [], Clock()
    stack = ProcessStack(tmp_path, log=said.append, clock=clock)
    for name in ("api", "worker"):
        stack.add(Mortal(name))
    return stack, said, clock


def pauses(stack, part, clock, deaths, lived=0.0):
    """Let it die so often, as soon as it is up; the seconds until each restart."""
    found = []
    stack.restart_dead()
    for _ in range(deaths):
        clock.now += lived
        part.alive, died_at, starts = False, clock.now, part.starts
        stack.restart_dead()
        while part.starts == starts:
            clock.now += 0.5
            stack.restart_dead()
        found.append(clock.now - died_at)
    return found


def test_the_pauses_grow_up_to_a_bound_and_a_healthy_time_makes_them_short_again(watched):
    stack, _, clock = watched
    part = stack.children[0]
    assert pauses(stack, part, clock, 8) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert pauses(stack, part, clock, 20, lived=HEALTHY_SECONDS) == [1] * 20


def test_a_failed_start_counts_as_a_death_and_the_others_go_on(watched):
    stack, said, clock = watched
    part, other = stack.children
    part.alive = part.startable = False
    for _ in range(3):
        stack.restart_dead()
        clock.now += 2
    assert said == [
        "api ended with status 1; its log is x and ends:; starting it again in 1 s",
        "api does not answer; starting it again in 2 s",
        "api does not answer; starting it again in 4 s",
    ]
    pauses(stack, other, clock, 1)
    assert other.starts == 1


def test_a_successor_answers_on_the_same_socket_and_its_log_goes_on(start, until):
    with listening_socket(0) as listener, listening_socket(listener.getsockname()[1]) as other:
        assert other.getsockname()[1] != listener.getsockname()[1], "a taken port is replaced"
        child = start(LISTENER, sockets={"PART_SOCKET": listener})
        first = child.process.pid
        with socket.create_connection(listener.getsockname(), timeout=60) as connection:
            assert int(connection.recv(20)) == first
        os.kill(first, signal.SIGKILL)
        until(lambda: child.process.poll() is not None, "its end")
        with socket.create_connection(listener.getsockname(), timeout=60) as early:  # while nobody is there
            child.start()
            assert int(early.recv(20)) == child.process.pid != first
        until(lambda: "ready" in child.log_tail(), "the successor's first line")
        assert "=== started again" in child.log.read_text(encoding="utf-8")
        assert "started again" not in child.log_tail(), "the last words are the successor's own"
