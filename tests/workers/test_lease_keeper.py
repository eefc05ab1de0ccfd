"""Renewal of a lease, and what follows for the job when there is none."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from sqlalchemy.exc import OperationalError

from lcl_core.db.leases import StaleLease
from lcl_core.db.states import State
from workers import lease_keeper
from workers.lease_keeper import AttemptInterrupted, LeaseKeeper


class RecordedProcess:
    """A process that records what is done to it."""

    def __init__(self):
        self.received: list[str] = []

    def terminate(self):
        self.received.append("terminate")

    def kill(self):
        self.received.append("kill")
        return -9


class Renewals:
    """Renewals that succeed, fail, block, or find the lease lost."""

    def __init__(self):
        self.count = self.failures = 0
        self.mode = "succeed"
        self.state = State.RUNNING
        self.blocked = False
        self.unblocked = threading.Event()

    def __call__(self, _session):
        if self.mode == "lost":
            raise StaleLease("run_1")
        if self.mode == "fail":
            self.failures += 1
            raise OperationalError("renewal", None, ConnectionError("away"))
        if self.mode == "block":
            self.blocked = True
            self.unblocked.wait()
        self.count += 1
        return self.state


@pytest.fixture
def renewals():
    renewals = Renewals()
    yield renewals
    renewals.unblocked.set()


class BootClock:
    """Advance the boot clock, as a machine does that was suspended."""

    def __init__(self):
        self._real, self._ahead = lease_keeper.boot_time, 0.0
        self.rounds = 0  # readings by the thread that enforces the deadline

    def __call__(self, seconds):
        self._ahead += seconds

    def read(self):
        self.rounds += threading.current_thread().name == "deadline"
        return self._real() + self._ahead


@pytest.fixture
def clock(monkeypatch):
    clock = BootClock()
    monkeypatch.setattr(lease_keeper, "boot_time", clock.read)
    return clock


@pytest.fixture
def stopping():
    return threading.Event()


@pytest.fixture
def keep(database, settings, renewals, stopping):
    def make(lease=20.0, heartbeat=0.02):
        settings.lease_seconds, settings.heartbeat_seconds, settings.watch_seconds = lease, heartbeat, 0.02
        return LeaseKeeper(database, settings, "run_1", renewals, stopping)

    return make


@pytest.mark.parametrize("mode", ["fail", "block"])
def test_without_renewals_the_job_is_asked_to_leave_and_then_killed(keep, renewals, eventually, mode):
    process = RecordedProcess()
    with keep(lease=2.0) as lease:
        lease.confirm()
        with lease.protect(process):
            renewals.mode = mode
            eventually(lambda: "kill" in process.received, "the end")
        assert process.received[:2] == ["terminate", "kill"]
        assert lease.ended_process
        lease.check()  # the database has not said that another worker has the run
        renewals.unblocked.set()


def test_an_engine_that_does_not_answer_once_is_asked_again(keep, renewals, eventually):
    process = RecordedProcess()
    answers = iter([OSError("stale file handle"), ConnectionError("lost")])

    def send(name):
        if (error := next(answers, None)) is not None:
            raise error
        process.received.append(name)

    process.terminate, process.kill = (partial(send, name) for name in ("terminate", "kill"))
    with keep(lease=2.0) as lease:
        lease.confirm()
        with lease.protect(process):
            renewals.mode = "fail"
            eventually(lambda: "kill" in process.received, "the end")


def test_the_age_of_a_lease_counts_from_when_its_renewal_was_sent(keep, renewals, eventually, clock):
    """The reply may come late; the lease runs from when the database got the statement."""
    process = RecordedProcess()
    with keep(lease=1000.0) as lease:
        lease.confirm()
        with lease.protect(process):
            renewals.mode = "block"
            eventually(lambda: renewals.blocked, "a renewal without a reply")
            clock(400.0)
            before = clock.rounds
            eventually(lambda: clock.rounds > before + 1, "a round of the deadline thread")
            assert process.received == []
            renewals.mode, renewed = "fail", renewals.count
            renewals.unblocked.set()
            eventually(lambda: renewals.count > renewed, "the reply")
            clock(200.0)
            eventually(lambda: process.received, "the request to leave", 60.0)
            assert process.received == ["terminate"]
            clock(200.0)
            eventually(lambda: process.received[1:], "the end, before another worker may claim the run", 60.0)
    assert process.received == ["terminate", "kill"]


def test_a_lost_lease_kills_the_job(keep, renewals, eventually):
    process = RecordedProcess()
    with keep() as lease:
        lease.confirm()
        with lease.protect(process):
            renewals.mode = "lost"
            eventually(lambda: process.received, "the end")
        assert process.received[0] == "kill"
        with pytest.raises(StaleLease):
            lease.check()


def test_a_job_whose_machine_slept_for_a_lease_is_killed_when_it_wakes(keep, renewals, eventually, clock):
    process = RecordedProcess()
    with keep(lease=60.0, heartbeat=15.0) as lease:
        lease.confirm()
        with lease.protect(process):
            clock(600.0)
            eventually(lambda: process.received, "the end")
    assert (process.received, lease.ended_process) == (["kill"], True)


def test_a_job_that_does_not_leave_within_the_grace_is_killed_whatever_blocks_the_database(keep, renewals, eventually):
    process = RecordedProcess()
    with keep(lease=3600.0) as lease:
        lease.confirm()
        renewals.mode = "block"
        with lease.protect(process):
            lease.end_process(0.1)
            eventually(lambda: "kill" in process.received, "the end")
        assert process.received[:2] == ["terminate", "kill"]
        renewals.unblocked.set()


def test_nothing_starts_before_the_first_renewal(keep, renewals, eventually, stopping):
    renewals.mode = "fail"
    raised: list[BaseException] = []
    with keep() as lease:

        def wait():
            try:
                lease.confirm()
            except AttemptInterrupted as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: renewals.failures > 0, "a failed renewal")
        assert thread.is_alive()
        stopping.set()
        thread.join()
    assert len(raised) == 1


def test_a_stopping_worker_repeats_a_write_for_its_grace_alone(keep, settings, stopping):
    def write():
        raise OperationalError("write", None, ConnectionError())

    settings.cancel_grace_seconds = 0.1
    stopping.set()
    with keep() as lease, pytest.raises(OperationalError):
        lease.persist(write)
