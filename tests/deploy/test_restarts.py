"""What dies is started again after growing pauses, and given up in the end; the others go on."""

import os
import signal
import socket
import sys

import pytest

from deploy.process import (
    HEALTHY_SECONDS,
    LOOPBACK,
    MAX_DEATHS,
    ChildDied,
    ChildProcess,
    Restarter,
    Service,
    listening_socket,
)
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended

LISTENER = """
import os, signal, socket
listener = socket.socket(fileno=int(os.environ["PART_SOCKET"]))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Mortal:
    """A part that is dead or alive as the test says."""

    def __init__(self, name="api"):
        self.name, self.alive, self.status, self.starts, self.given_up = name, True, 1, 0, False
        self.startable = True

    def check(self):
        if not self.alive:
            message = f"{self.name} ended with status {self.status}; its log is x and ends:\n    why"
            raise ChildDied(message, self.status)

    def start(self):
        if not self.startable:
            raise UserError(f"{self.name} does not answer", code="broker_died")
        self.starts += 1
        self.alive = True

    def abandon(self):
        self.given_up = True


@pytest.fixture
def clock():
    return Clock()


def pauses(restarter, part, clock, deaths, lived=0.0):
    """Let it die so often, as soon as it is up; the seconds until each restart."""
    found = []
    for _ in range(deaths):
        clock.now += lived
        part.alive, died_at, starts = False, clock.now, part.starts
        restarter.check()
        while part.starts == starts and not part.given_up:
            clock.now += 0.5
            restarter.check()
        found.append(clock.now - died_at)
    return found


def test_the_pauses_grow_up_to_a_bound(clock):
    part, restarter = Mortal(), Restarter(lambda _: None, clock)
    restarter.watch(part)
    assert pauses(restarter, part, clock, 8) == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_healthy_time_makes_the_pauses_short_again(clock):
    part, restarter = Mortal(), Restarter(lambda _: None, clock)
    restarter.watch(part)
    assert pauses(restarter, part, clock, 4) == [1, 2, 4, 8]
    assert pauses(restarter, part, clock, 3 * MAX_DEATHS, lived=HEALTHY_SECONDS) == [1] * (3 * MAX_DEATHS)
    assert not part.given_up


def test_it_is_given_up_with_its_last_words_and_the_others_go_on(clock):
    said = []
    part, other, restarter = Mortal(), Mortal("worker"), Restarter(said.append, clock)
    restarter.watch(part)
    restarter.watch(other)
    pauses(restarter, part, clock, MAX_DEATHS)
    assert part.given_up
    assert part.starts == MAX_DEATHS - 1
    assert said[-1].startswith(f"api is not started again, since it died {MAX_DEATHS} times in a row: api ended with")
    assert "    why" in said[-1]
    with pytest.raises(UserError, match="api is not started again"):
        restarter.require_all()
    pauses(restarter, other, clock, 1)
    assert other.starts == 1


def test_wrong_settings_are_not_tried_twice(clock):
    said = []
    part, restarter = Mortal(), Restarter(said.append, clock)
    restarter.watch(part)
    part.alive, part.status = False, 2
    restarter.check()
    assert (part.given_up, part.starts) == (True, 0)
    assert said[0].startswith("api is not started again, since its settings are wrong: api ended with status 2")


def test_a_start_that_fails_counts_as_a_death(clock):
    said = []
    part, restarter = Mortal("broker"), Restarter(said.append, clock)
    restarter.watch(part)
    part.alive = part.startable = False
    restarter.check()
    for _ in range(1000):
        clock.now += 1
        restarter.check()
    assert part.given_up
    assert len(said) == MAX_DEATHS
    assert said[1] == "broker does not answer; starting it again in 2 s"


@pytest.fixture
def listener():
    with listening_socket(0) as made:
        yield made


def test_a_successor_answers_on_the_same_socket_and_its_log_goes_on(tmp_path, listener, until):
    service = Service("part", ("python", "-c", LISTENER), sockets={"PART_SOCKET": listener})
    child = ChildProcess(service, tmp_path)
    try:
        first = child.process.pid
        assert ask(listener) == first
        os.kill(first, signal.SIGKILL)
        until(lambda: child.process.poll() is not None, "its end")
        with socket.create_connection(listener.getsockname(), timeout=60) as early:  # while nobody is there
            child.start()
            assert int(early.recv(20)) == child.process.pid != first
        until(lambda: "ready" in child.log_tail(), "the successor's first line")
        assert child.log.read_text(encoding="utf-8").count("ready") == 2
        assert "=== started again" in child.log.read_text(encoding="utf-8")
        assert "started again" not in child.log_tail(), "the last words are the successor's own"
        child.abandon()
        child.process.wait(60)
        assert listener.fileno() == -1, "who connects is refused"
    finally:
        child.stop(hurry=lambda: True)


def ask(listener):
    with socket.create_connection(listener.getsockname(), timeout=60) as connection:
        return int(connection.recv(20))


def test_what_a_dead_child_left_behind_goes_before_its_successor_starts(tmp_path, until, is_running):
    code = f"""
import subprocess
left = subprocess.Popen([{sys.executable!r}, "-c", "import time; time.sleep(600)"])
print(left.pid, flush=True)
"""
    child = ChildProcess(Service("part", ("python", "-c", code)), tmp_path)
    try:
        until(lambda: child.process.poll() is not None, "its end")
        left = int(child.log_tail())
        assert is_running(left)
        child.start()
        until(lambda: not is_running(left), "the end of what was left")
    finally:
        child.process.wait(60)
        child.stop()


def test_a_port_that_is_taken_is_replaced_and_a_taken_one_is_kept(listener):
    port = listener.getsockname()[1]
    with listening_socket(port) as other:
        assert other.getsockname()[1] != port
        assert other.getsockname()[0] == LOOPBACK
