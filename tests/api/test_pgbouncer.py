"""The service on PostgreSQL behind PgBouncer in transaction mode, with two connections for all of its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.db import complete_run, leases

pytestmark = pytest.mark.extended

ADMIN_KEY = "4f0c9a7be1d2835c6a8e7f10"


@pytest.fixture
def team(tmp_path: Path, pooled_postgres: str, serve: Any, house_of: Callable[..., Any]) -> Iterator[Any]:
    settings = ApiSettings(
        home=tmp_path,
        database_url=pooled_postgres,
        database_pooler="transaction",
        admin_key=ADMIN_KEY,
        event_poll_seconds=0.02,
    )
    context = AppState(settings)
    with serve(settings) as url:
        yield house_of(url, tmp_path, context, ADMIN_KEY)
    context.close()


def whole_life(team: Any) -> list[Any]:
    """Steps of the events that a follower of the run gets."""
    run_id = team.admin.submit("pretrain", {"preset": "sample"})["id"]
    with ThreadPoolExecutor(1) as pool:
        followed = pool.submit(lambda: [event["data"].get("step") for event in team.admin.events(run_id)])
        claim = team.claim(run_id)
        for step in (10, 20, 30):
            team.record(claim, {"step": step, "total_steps": 30, "loss": 1.0})
            with team.context.database.session() as session:
                leases.renew_lease(session, claim)
        team.settle(claim, complete_run.RunFailed({"code": "crash", "message": "over"}))
        steps = followed.result()
    run = team.admin.run(run_id)
    assert (run["state"], run["reason"]["code"]) == ("failed", "crash")
    assert [line["step"] for line in team.admin.metrics(run_id)] == [10, 20, 30]
    return [step for step in steps if step is not None]


def test_runs_live_their_whole_lives(team: Any) -> None:
    """More at a time, and more often, than there are connections and executions before a statement is prepared."""
    assert [whole_life(team) for _ in range(6)] == [[10, 20, 30]] * 6
    with ThreadPoolExecutor(6) as pool:
        submitted = list(pool.map(lambda seed: team.admin.submit("pretrain", {"seed": seed})["id"], range(30)))
    assert {run["id"] for run in team.admin.runs(state="queued")["items"]} == set(submitted)
    assert team.admin.cancel(submitted[0])["state"] == "cancelled"
