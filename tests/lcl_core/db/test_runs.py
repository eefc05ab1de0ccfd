"""Pages that stay put, filters, an encoder's figures."""

import pytest
from sqlalchemy import update

from lcl_core.db import runs, states
from lcl_core.db.models import Run
from lcl_core.specs.parsing import parse_spec


def ids(database, **filters):
    with database.reading() as session:
        return [run.id for run in runs.list_runs(session, **filters).items]


def test_pages_cover_everything_once_though_runs_arrive_meanwhile(database, queue):
    made = [queue(tags=["old"]) for _ in range(7)]
    seen = []
    cursor = None
    while True:
        with database.reading() as session:
            page = runs.list_runs(session, limit=3, cursor=cursor)
        seen += [run.id for run in page.items]
        queue(tags=["new"])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]


def test_filters(database, queue):
    pretrain = queue(tags=["a", "b"])
    evaluate = queue("evaluate", {"encoder": "e"}, tags=["b"], owner="ada")
    with database.session() as session:
        runs.cancel_run(session, pretrain)
    assert ids(database, kind="evaluate") == [evaluate]
    assert ids(database, state="cancelled") == [pretrain]
    assert ids(database, owner="ada") == [evaluate]
    assert ids(database, tag="b") == [evaluate, pretrain]
    assert ids(database, tag="b", state="queued") == [evaluate]
    assert ids(database, tag="c") == []
    with database.reading() as session:
        counted = runs.count_runs_by_state(session)
    assert counted == dict.fromkeys(states.State, 0) | {"queued": 1, "cancelled": 1}


def test_a_tags_pages_cover_it_once_newest_first(database, queue):
    tagged = [queue(tags=["a", "b"] if number % 2 else ["a"]) for number in range(5)]
    queue(tags=["c"])
    seen = []
    cursor = None
    while cursor is not None or not seen:
        with database.reading() as session:
            page = runs.list_runs(session, tag="a", limit=2, cursor=cursor)
        seen += [run.id for run in page.items]
        cursor = page.next_cursor
    assert seen == tagged[::-1]


def test_figures_of_an_encoder_are_its_successful_evaluations(database, queue):
    good, failed, other = (queue("evaluate", {"encoder": "e"}) for _ in range(3))
    rows = [{"metric": "IR@5", "value": 0.1}]
    with database.session() as session:
        for run_id, state, encoder in (
            (good, "succeeded", "enc_1"),
            (failed, "failed", "enc_1"),
            (other, "succeeded", "enc_2"),
        ):
            values = {"state": state, "encoder_id": encoder, "result": {"rows": rows}}
            session.execute(update(Run).where(Run.id == run_id).values(**values))
    with database.reading() as session:
        assert [(run.id, figures) for run, figures in runs.list_evaluations(session, "enc_1")] == [(good, rows)]


def test_time_beside_the_steps_is_that_of_runs_that_made_all_of_their_steps(database, queue):
    """The seconds of a run that starts from another one's checkpoint count those before it."""
    spec = {"preset": "sample", "precision": "fp32"}
    first = queue(spec=spec)
    later = queue(spec=spec | {"branch": {"run": first, "step": 490}})
    counts = {"steps": 500, "seconds": 200.0, "images_seen": 64_000, "tokens_seen": 1_600_000, "documents_seen": 58_000}
    counts["flops"] = 1e14
    with database.session() as session:
        for run_id, seconds in ((first, 210.0), (later, 14.0)):
            run = runs.get_run(session, run_id)
            run.state, run.attempt, run.ran_seconds = "succeeded", 1, seconds
            run.result = {"encoder": counts, "final": {"memory_gib": 1.0}}
    with database.reading() as session:
        found = runs.estimate_run(session, parse_spec("pretrain", spec))
    assert sorted(found.runs) == sorted([first, later])
    assert found.seconds.expected == pytest.approx(215)
