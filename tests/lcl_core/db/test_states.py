"""The state machine: every pair of states, and every verb in every state on both databases."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from lcl_core.db import leases, registry, runs
from lcl_core.db import states as db_states
from lcl_core.db.models import Run
from lcl_core.db.session import Database
from lcl_core.db.states import State, check_transition

MANUAL = (Path(__file__).resolve().parents[3] / "docs" / "runs.md").read_text(encoding="utf-8")
MAY_BECOME = {
    "waiting": "queued paused cancelled",
    "queued": "running paused cancelled",
    "running": "succeeded failed cancelled cancelling pausing queued",
    "pausing": "paused cancelling succeeded failed",
    "paused": "queued waiting cancelled",
    "cancelling": "cancelled succeeded failed",
    "succeeded": "",
    "failed": "queued waiting",
    "cancelled": "queued waiting",
}
VERBS = {
    "cancel": runs.cancel_run,
    "pause": runs.pause_run,
    "unpause": runs.unpause_run,
    "resume": runs.resume_run,
    "retry": runs.retry_run,
    "delete": runs.delete_run,
}
OUTCOMES = {
    **{(state, "cancel"): "cancelled" for state in ("waiting", "queued", "paused")},
    **{(state, "cancel"): "cancelling" for state in ("running", "pausing")},
    **{(state, "pause"): "paused" for state in ("waiting", "queued")},
    ("running", "pause"): "pausing",
    ("paused", "unpause"): "queued",
    **{(state, verb): "queued" for state in ("failed", "cancelled") for verb in ("resume", "retry")},
    **{(state, "delete"): None for state in ("succeeded", "failed", "cancelled")},
}


@pytest.mark.parametrize(("source", "target"), product(State, State))
def test_every_pair_is_allowed_or_forbidden(source: State, target: State) -> None:
    if target in MAY_BECOME[source].split():
        check_transition("run_1", source, target)
    else:
        with pytest.raises(db_states.ForbiddenTransition) as caught:
            check_transition("run_1", source, target)
        assert caught.value.code == "forbidden_transition"


def test_the_manual_has_the_same_transitions_and_verbs() -> None:
    """Its tables, and the arrows of its diagram."""
    states = MANUAL.partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", states, re.MULTILINE))
    assert {state: set(re.findall(r"`(\w+)`", nexts)) for state, nexts in rows.items()} == {
        state: set(nexts.split()) for state, nexts in MAY_BECOME.items()
    }
    arrows = re.findall(r"^    (\w+) --> (\w+)", MANUAL, re.MULTILINE)
    assert {(source, target) for source, target in arrows} == {
        (source, target) for source, nexts in MAY_BECOME.items() for target in nexts.split()
    }
    assert set(re.findall(r"^\| `POST …/(\w+)`|^\| `(DELETE)", MANUAL, re.MULTILINE)) == {
        ("", "DELETE") if verb == "delete" else (verb, "") for verb in VERBS
    }


@pytest.mark.parametrize(("state", "verb"), product([state.value for state in State], VERBS))
def test_every_verb_in_every_state(
    database: Database, queue: Callable[..., str], run_of: Callable[[str], Any], state: str, verb: str
) -> None:
    run_id = queue()
    with database.session() as session:
        session.execute(update(Run).where(Run.id == run_id).values(state=state))
    if (state, verb) not in OUTCOMES:
        with pytest.raises(db_states.ForbiddenTransition, match=run_id), database.session() as session:
            VERBS[verb](session, run_id)
        assert run_of(run_id).state == state
        return
    with database.session() as session:
        VERBS[verb](session, run_id)
    with database.reading() as session:
        found = session.get(Run, run_id)
        assert (None if found is None else found.state) == OUTCOMES[state, verb]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_on_an_unknown_run_says_so(database: Database, verb: str) -> None:
    with pytest.raises(Exception, match="there is no run 'run_none'"), database.session() as session:
        VERBS[verb](session, "run_none")


def test_resume_and_retry_begin_anew_but_only_retry_forgets(
    database: Database, queue: Callable[..., str], claim: Callable[..., leases.Claim], run_of: Callable[[str], Any]
) -> None:
    run_id = queue(max_attempts=1)
    claimed = claim()
    with database.session() as session:
        leases.record_metrics(session, claimed, [{"step": 1, "loss": 2.0}])
    with database.session() as session:
        runs.cancel_run(session, run_id)
        leases.release_lease(session, claimed)
    assert run_of(run_id).state == "cancelled"
    with database.session() as session:
        runs.resume_run(session, run_id)
    resumed = run_of(run_id)
    assert (resumed.progress, resumed.finished_at, resumed.from_scratch) == ({"step": 1, "loss": 2.0}, None, False)
    assert (resumed.max_attempts, resumed.setbacks) == (1, None), "what was submitted, and no loss counted"
    with database.session() as session:
        runs.cancel_run(session, run_id)
        runs.retry_run(session, run_id)
    with database.reading() as session:
        retried = runs.get_run(session, run_id)
        assert (retried.progress, retried.from_scratch) == (None, True)
        assert runs.metrics_after(session, run_id) == []


def test_delete_removes_metrics_and_tags_but_not_what_the_run_made(
    database: Database, queue: Callable[..., str]
) -> None:
    from lcl_core.db.models import EncoderRow, Metric, RunTag
    from lcl_core.db.session import now

    run_id = queue(tags=["a", "b"])
    with database.session() as session:
        session.add(Metric(run_id=run_id, step=1, values={}))
        facts = {"name": "e", "path": "encoders/enc_1", "hash": "0", "identity": "0", "owner": "local", "info": {}}
        session.add(EncoderRow(id="enc_1", run_id=run_id, created_at=now(session), **facts))
        runs.cancel_run(session, run_id)
    with database.session() as session:
        runs.delete_run(session, run_id)
    with database.reading() as session:
        assert session.query(Metric).count() == session.query(RunTag).count() == 0
        assert registry.get_encoder(session, "enc_1").run_id is None
