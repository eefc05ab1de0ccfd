"""Deadlines of a job: what counts against them, by a clock that the test moves."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from lcl_core.common.run_dir import RunDir
from lcl_core.db import queue as db_queue
from lcl_core.db.leases import Claim, transition
from lcl_core.db.models import Run
from lcl_core.db.states import State
from tests.workers.in_process_worker import attempt_at
from workers import job_output, lease_keeper
from workers import monitor as monitor_module
from workers.executors.base import Job
from workers.failure_table import StopReason
from workers.monitor import JobMonitor

TIMEOUT, HUNG = 400.0, 100.0
CHECK_SECONDS = 5.0


class SilentJob(Job):
    """Makes no progress, and ends when it is stopped, or after ``checks``.

    Args:
        pauses: numbers of the checks during which the engine has suspended it.
    """

    log_start, identity = 0, {}  # type: ignore[assignment]

    def __init__(self, clock, checks, pauses):
        self._clock, self._checks, self._pauses = clock, checks, pauses
        self._number = 0

    @property
    def number(self):
        """Of the checks so far."""
        return self._number

    @property
    def log_file(self):
        return Path("log.txt")

    @property
    def is_paused(self):
        return self._number in self._pauses

    def wait(self, seconds):
        self._clock[0] += CHECK_SECONDS
        self._number += 1
        return 0 if self._number > self._checks else None

    def kill(self):
        self._checks = 0
        return -9

    def dump_stacks(self):
        return "no stacks"


@pytest.fixture
def clock(monkeypatch):
    moment = [1000.0]
    monkeypatch.setattr(lease_keeper.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def monitor(database, settings, queue, tmp_path):
    queue(spec={"timeout_seconds": TIMEOUT})
    with database.session() as session:
        claim = db_queue.claim_next(session, "worker", 60.0)
    assert isinstance(claim, Claim)
    run_dir = RunDir(tmp_path / "run")
    run_dir.prepare({})
    settings.hung_seconds = HUNG
    lease = SimpleNamespace(
        check=lambda: None,
        protect=nullcontext,
        persist=lambda write: write(),
        ended_process=False,
    )

    def create(job):
        lease.end_process = lambda *_, **__: job.kill()
        return JobMonitor(replace(attempt_at(claim, database, settings, lease), run_dir=run_dir), job)

    return create


@pytest.mark.parametrize(
    ("hung_seconds", "pauses", "reason"),
    [
        (HUNG, range(0), StopReason.HUNG),
        (HUNG, range(10, 190), None),
        (HUNG, range(10, 100), StopReason.HUNG),
        (1e6, range(0), StopReason.TIMEOUT),
        (1e6, range(10, 190), None),
        (1e6, range(10, 20), StopReason.TIMEOUT),
    ],
)
def test_the_time_for_which_an_engine_suspends_a_job_counts_against_no_deadline(
    monitor, settings, clock, hung_seconds, pauses, reason
):
    """200 checks are 1,000 s."""
    settings.hung_seconds = hung_seconds
    exited = monitor(SilentJob(clock, 200, pauses)).until_exit()
    assert exited.stop_reason is reason


class TestLongHistory:
    """An attempt with many metric lines from before: 95 lines of which a transaction has 10."""

    @pytest.fixture(autouse=True)
    def parts(self, monkeypatch):
        """Number of lines in each transaction."""
        monkeypatch.setattr(job_output, "LINES_A_READ", 10)
        sizes: list[int] = []
        record = monitor_module.record_metrics

        def count(session, claim, lines, **more):
            sizes.append(len(lines))
            record(session, claim, lines, **more)

        monkeypatch.setattr(monitor_module, "record_metrics", count)
        return sizes

    @pytest.fixture
    def run_dir(self, tmp_path):
        run_dir = RunDir(tmp_path / "run")
        run_dir.path.mkdir(exist_ok=True)
        for step in range(1, 96):
            run_dir.append_metrics(step=step)
        return run_dir

    def test_all_lines_are_stored_in_parts(self, monitor, run_dir, clock, parts, steps_of, database):
        assert monitor(SilentJob(clock, 2, range(0))).until_exit().stop_reason is None
        with database.reading() as session:
            run_id, progress = session.execute(select(Run.id, Run.progress)).tuples().one()
        assert steps_of(run_id) == list(range(1, 96))
        assert progress is not None
        assert progress["step"] == 95
        assert max(parts) == 10

    def test_a_request_to_cancel_is_seen_between_two_parts(self, monitor, run_dir, clock, parts, database):
        job = SilentJob(clock, 200, range(0))
        watched = monitor(job)
        with database.session() as session:
            transition(session.scalars(select(Run)).one(), State.CANCELLING)
        assert watched.until_exit().stop_reason is StopReason.CANCEL
        assert job.number == 2, "at its first check"

    def test_the_next_attempt_drops_what_was_cut_off(self, monitor, run_dir, clock, steps_of, database):
        monitor(SilentJob(clock, 1, range(0))).until_exit()
        run_dir.truncate_metrics(82)
        with database.reading() as session:
            (run_id,) = session.scalars(select(Run.id)).all()
        monitor(SilentJob(clock, 1, range(0))).until_exit()
        assert steps_of(run_id) == list(range(1, 83))
