"""The safety net: rings for what waits, takes back what is lost, proves that it lives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lcl_core.runs import store
from lcl_core.runs.database import Database, now
from lcl_core.runs.roster import Identity
from workers.reaper import Reaper
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
def reaper(database: Database, bell: Any, board: Any, settings: WorkerSettings) -> Reaper:
    return Reaper(database, bell, board, Identity("worker-1", "host", 7, 1, ("cpu",)), settings)


def age(database: Database, run_id: str) -> None:
    with database.session() as session:
        store.get_run(session, run_id).ready_at = now(session) - timedelta(minutes=1)


def test_a_run_that_nobody_claimed_is_rung_for_and_offered(
    reaper: Reaper, bell: Bell, board: Board, database: Database, queue: Callable[..., str]
) -> None:
    waiting = queue()
    age(database, waiting)
    queue()  # has only just come: its own ring is on its way
    reaper.round()
    assert (bell.rung, board.offers) == ([waiting], 1)


def test_nothing_to_do_rings_nobody(reaper: Reaper, bell: Bell, board: Board) -> None:
    reaper.round()
    assert (bell.rung, board.offers) == ([], 0)


def test_a_lost_run_is_queued_and_rung_for_at_once(
    reaper: Reaper,
    bell: Bell,
    board: Board,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
) -> None:
    run_id = queue()
    with database.session() as session:
        store.claim_next(session, "a worker that dies", lease_seconds=-1.0)
    reaper.round()
    reaper.round()
    assert (run_of(run_id).state, bell.rung[0], board.offers >= 1) == ("queued", run_id, True)


def test_it_shows_signs_of_life(
    reaper: Reaper, bell: Bell, database: Database, eventually: Callable[..., None]
) -> None:
    reaper.start()
    eventually(lambda: len(bell.pings) >= 2)
    reaper.stop()
    with database.reading() as session:
        (worker,) = store.list_workers(session)
    assert (worker.id, worker.host, worker.pid, worker.devices) == ("worker-1", "host", 7, ["cpu"])
    assert worker.seen_at > worker.started_at


def test_what_a_study_needs_next_is_queued_and_rung_for(
    reaper: Reaper, bell: Bell, board: Board, database: Database, study: Callable[..., str]
) -> None:
    study_id = study()
    with database.session() as session:
        run = store.get_run(session, store.study_cells(session, study_id)[0].run.id)
        run.state, run.encoder_id = "succeeded", "enc_1"
    reaper.round()
    reaper.round()
    with database.reading() as session:
        (evaluation,) = store.list_runs(session, kind="evaluate").items
    assert (bell.rung, board.offers) == ([evaluation.id], 1)
    assert (evaluation.state, evaluation.spec["encoder"]) == ("queued", "enc_1")


def test_a_run_whose_predecessor_has_ended_is_let_go_or_ended(
    reaper: Reaper,
    bell: Bell,
    board: Board,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
) -> None:
    good, bad = queue(), queue()
    after_good, after_bad = queue(after=[good]), queue(after=[bad])
    with database.session() as session:
        store.get_run(session, good).state, store.get_run(session, bad).state = "succeeded", "failed"
    reaper.round()
    assert (bell.rung, board.offers) == ([after_good], 1)
    assert (run_of(after_good).state, run_of(after_bad).state) == ("queued", "cancelled")
