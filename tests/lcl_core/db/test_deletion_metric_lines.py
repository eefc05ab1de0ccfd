"""Metric lines of runs that ended long ago: fewer, at the same steps, and all that measure held-out data."""

from datetime import timedelta
from itertools import pairwise

import pytest

from lcl_core.db import leases, runs
from lcl_core.db.deletion import POINTS, thin_ended_runs
from lcl_core.db.session import now

STEPS = 6000


def line(step):
    held_out = {"held_out.loss": 1 / step} if step % 1000 == 7 else {}
    return {"step": step, "total_steps": STEPS, "loss": 2 / step, **held_out}


@pytest.fixture
def ended(database, queue, claim):
    """A failed run with these lines that ended so many days ago."""

    def make(lines, days=40.0):
        run_id = queue()
        claimed = claim()
        with database.session() as session:
            leases.record_metrics(session, claimed, lines)
            run = runs.get_run(session, run_id)
            leases.transition(
                run, runs.State.FAILED, finished_at=now(session) - timedelta(days=days), **leases.NO_LEASE
            )
        return run_id

    return make


@pytest.fixture
def lines_of(database):
    def read(run_id):
        with database.reading() as session:
            return [row.values for row in runs.metrics_after(session, run_id)]

    return read


def test_a_long_curve_is_thinned_once_and_keeps_what_matters(database, ended, lines_of):
    whole = [line(step) for step in range(1, STEPS + 1)]
    preparing = [{"step": 0, "phase": "preparing"}, {"step": 0, "phase": "decoding images"}]
    run_id = ended([*preparing, *whole])
    deleted = thin_ended_runs(database, 30.0)
    kept = lines_of(run_id)
    assert len(kept) == STEPS + 2 - deleted
    assert POINTS / 4 <= len(kept) <= POINTS + 6
    assert [each for each in kept if "phase" in each] == preparing
    assert [each for each in kept if each in whole] == kept[2:], "no line has changed"
    assert kept[-1] == whole[-1]
    assert [each["step"] for each in kept if "held_out.loss" in each] == [7, 1007, 2007, 3007, 4007, 5007]
    steps = [each["step"] for each in kept[2:]]
    assert max(after - before for before, after in pairwise(steps)) <= 2 * STEPS / POINTS * 3
    assert thin_ended_runs(database, 30.0) == 0


def test_short_recent_and_unfinished_runs_stay_as_they_are(database, ended, lines_of, queue, claim):
    short = ended([line(step) for step in range(10, 5000, 10)])
    recent = ended([line(step) for step in range(1, STEPS + 1)], days=20.0)
    running = queue()
    with database.session() as session:
        leases.record_metrics(session, claim(), [line(step) for step in range(1, STEPS + 1)])
    assert thin_ended_runs(database, 30.0) == 0
    assert [len(lines_of(run_id)) for run_id in (short, recent, running)] == [499, STEPS, STEPS]


def test_a_run_that_goes_on_is_thinned_after_its_next_end(database, ended, lines_of, claim):
    whole = [line(step) for step in range(1, STEPS + 1)]
    run_id = ended(whole)
    thin_ended_runs(database, 30.0)
    thinned = lines_of(run_id)
    with database.session() as session:
        runs.resume_run(session, run_id)
    claimed = claim()
    with database.session() as session:
        leases.record_metrics(session, claimed, whole, rewound=True)
    assert lines_of(run_id) == whole, "in the order of their steps"
    with database.session() as session:
        run = runs.get_run(session, run_id)
        leases.transition(run, runs.State.FAILED, finished_at=now(session) - timedelta(days=40), **leases.NO_LEASE)
    thin_ended_runs(database, 30.0)
    assert lines_of(run_id) == thinned
