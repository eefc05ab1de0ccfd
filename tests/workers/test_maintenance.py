"""The safety net: rings for what waits, takes back what is lost, proves that it lives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lcl_core.db import queue as db_queue
from lcl_core.db import runs, studies
from lcl_core.db.session import Database, now
from lcl_core.db.workers import WorkerIdentity
from workers.maintenance import QueueMaintenance
from workers.settings import WorkerSettings


class Bell:
    """Writes down what is rung."""

    def __init__(self) -> None:
        self.rung: list[str] = []
        self.pings: list[str] = []

    def ring(self, run_id: str) -> bool:
        self.rung.append(run_id)
        return True

    def ping(self, sender: str) -> bool:
        self.pings.append(sender)
        return True


class Board:
    """Counts offers."""

    offers = 0

    def offer(self) -> None:
        self.offers += 1


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def reaper(database: Database, bell: Any, board: Any, settings: WorkerSettings) -> QueueMaintenance:
    return QueueMaintenance(database, bell, board, WorkerIdentity("worker-1", "host", 7, 1, ("cpu",)), settings)


def age(database: Database, run_id: str) -> None:
    with database.session() as session:
        runs.get_run(session, run_id).ready_at = now(session) - timedelta(minutes=1)


def test_a_run_that_nobody_claimed_is_rung_for_and_offered(
    reaper: QueueMaintenance, bell: Bell, board: Board, database: Database, queue: Callable[..., str]
) -> None:
    waiting = queue()
    age(database, waiting)
    queue()  # has only just come: its own ring is on its way
    reaper.round()
    assert (bell.rung, board.offers) == ([waiting], 1)


def test_nothing_to_do_rings_nobody(reaper: QueueMaintenance, bell: Bell, board: Board) -> None:
    reaper.round()
    assert (bell.rung, board.offers) == ([], 0)


def test_a_lost_run_is_queued_and_rung_for_at_once(
    reaper: QueueMaintenance,
    bell: Bell,
    board: Board,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
) -> None:
    run_id = queue()
    with database.session() as session:
        db_queue.claim_next(session, "a worker that dies", lease_seconds=-1.0)
    reaper.round()
    reaper.round()
    assert (run_of(run_id).state, bell.rung[0], board.offers >= 1) == ("queued", run_id, True)


def test_it_shows_signs_of_life(
    reaper: QueueMaintenance, bell: Bell, database: Database, eventually: Callable[..., None]
) -> None:
    reaper.start()
    eventually(lambda: len(bell.pings) >= 2)
    reaper.stop()
    with database.reading() as session:
        (worker,) = runs.list_workers(session)
    assert (worker.id, worker.host, worker.pid, worker.devices) == ("worker-1", "host", 7, ["cpu"])
    assert worker.seen_at > worker.started_at


def test_what_a_study_needs_next_is_queued_and_rung_for(
    reaper: QueueMaintenance, bell: Bell, board: Board, database: Database, study: Callable[..., str]
) -> None:
    study_id = study()
    with database.session() as session:
        run = runs.get_run(session, studies.study_cells(session, study_id)[0].run.id)
        run.state, run.encoder_id = "succeeded", "enc_1"
    reaper.round()
    reaper.round()
    with database.reading() as session:
        (evaluation,) = runs.list_runs(session, kind="evaluate").items
    assert (bell.rung, board.offers) == ([evaluation.id], 1)
    assert (evaluation.state, evaluation.spec["encoder"]) == ("queued", "enc_1")


def test_a_run_whose_predecessor_has_ended_is_let_go_or_ended(
    reaper: QueueMaintenance,
    bell: Bell,
    board: Board,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
) -> None:
    good, bad = queue(), queue()
    after_good, after_bad = queue(after=[good]), queue(after=[bad])
    with database.session() as session:
        runs.get_run(session, good).state, runs.get_run(session, bad).state = "succeeded", "failed"
    reaper.round()
    assert (bell.rung, board.offers) == ([after_good], 1)
    assert (run_of(after_good).state, run_of(after_bad).state) == ("queued", "cancelled")
