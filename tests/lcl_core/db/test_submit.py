"""Submitting: the spec is completed, and the same request is the same run."""

import threading

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import submit as db_submit
from lcl_core.db.models import EncoderRow
from lcl_core.db.session import now


def test_a_run_is_queued_with_its_whole_spec(queue, run_of):
    run_id = queue(spec={"steps": 7}, name="first", tags=["b", "a", "b"], owner="ada", priority=3)
    run = run_of(run_id)
    assert run_id.startswith("run_")
    assert (run.state, run.name, list(run.tags), run.owner) == ("queued", "first", ["a", "b"], "ada")
    assert (run.spec["steps"], run.spec["optimizer"]["lr"], run.priority, run.attempt) == (7, 5e-4, 3, 0)
    assert run.created_at == run.queued_at
    assert run.created_at.utcoffset().total_seconds() == 0


def register_encoder(database, row_id, name):
    with database.session() as session:
        facts = {
            "path": f"encoders/{row_id}",
            "hash": "0" * 64,
            "identity": "0" * 64,
            "owner": "ada",
            "info": {},
            "created_at": now(session),
        }
        session.add(EncoderRow(id=row_id, name=name, **facts))


def test_a_run_keeps_the_encoder_that_had_the_name_when_it_was_submitted(database, queue, run_of):
    spec = {"model": {"init": "tiny"}}
    register_encoder(database, "enc_1", "tiny")
    first = queue(spec=spec, idempotency_key="k")
    by_id = queue(spec={"model": {"init": "enc_1"}})
    register_encoder(database, "enc_2", "tiny")
    assert run_of(first).spec["model"]["init"] == run_of(by_id).spec["model"]["init"] == "enc_1"
    assert run_of(first).spec_hash == run_of(by_id).spec_hash
    assert queue(spec=spec, idempotency_key="k") == first
    assert run_of(queue(spec=spec)).spec["model"]["init"] == "enc_2"


def test_the_same_key_with_another_body_is_a_conflict(queue):
    first = queue(idempotency_key="k")
    with pytest.raises(UserError, match=first) as caught:
        queue(spec={"steps": 2}, idempotency_key="k")
    assert caught.value.code == "conflict"


def test_the_same_key_from_many_threads_at_once_makes_one_run(database, queue):
    made = []
    together = threading.Barrier(8)

    def submit():
        together.wait()
        made.append(queue(idempotency_key="k"))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


@pytest.mark.parametrize(
    ("kind", "spec", "request_", "expected"),
    [
        ("pretrain", {}, {}, ("accelerator", 1)),
        ("pretrain", {"engine": {"processes": 4}}, {}, ("accelerator", 4)),
        ("pretrain", {"engine": {"processes": 4, "nodes": 2}}, {"gpus": 4}, ("gpu", 4)),
        ("pretrain", {"engine": {"processes": 4}}, {"resource": "cpu"}, ("cpu", 0)),
        ("evaluate", {"encoder": "e"}, {"gpus": 1}, ("gpu", 1)),
        ("validate", {"path": "/data"}, {}, ("cpu", 0)),
    ],
)
def test_a_run_needs_as_many_gpus_as_it_has_processes(queue, run_of, kind, spec, request_, expected):
    run = run_of(queue(kind, spec, **request_))
    assert (run.resource, run.gpus) == expected


@pytest.mark.parametrize(
    ("kind", "spec", "request_", "words"),
    [
        ("pretrain", {"engine": {"processes": 4}}, {"gpus": 2}, "engine.processes is 4.* set engine.processes to 2"),
        ("pretrain", {}, {"gpus": 8}, "engine.processes is 1.*or gpus to 1"),
        ("pretrain", {}, {"gpus": 1, "resource": "cpu"}, "resource is cpu; leave gpus out"),
        ("validate", {"path": "/data"}, {"gpus": 1}, "a run of kind validate uses none"),
        ("evaluate", {"encoder": "e"}, {"gpus": 2}, "a run of kind evaluate uses one GPU"),
    ],
)
def test_other_numbers_of_gpus_are_refused(database, kind, spec, request_, words):
    with database.session() as session, pytest.raises(UserError, match=words) as caught:
        db_submit.submit(session, kind, spec, **request_)
    assert (caught.value.code, caught.value.field) == ("invalid_value", "gpus")


def test_a_branch_is_of_a_pretraining_that_its_owner_may_see(database, queue):
    trunk, theirs = queue(spec={"steps": 10}), queue(spec={"steps": 10}, owner="somebody")
    other = queue(kind="validate", spec={"dataset": "sample"})
    queue(spec={"steps": 20, "branch": {"run": trunk, "step": 10}}, visible_to="local")
    for run_id, step, field in (
        ("run_0000000000000000zz", 5, "branch.run"),
        (theirs, 5, "branch.run"),
        (other, 5, "branch.run"),
        (trunk, 11, "branch.step"),
    ):
        with pytest.raises(UserError) as caught:
            queue(spec={"steps": 20, "branch": {"run": run_id, "step": step}}, visible_to="local")
        assert (caught.value.code, caught.value.field) == ("invalid_value", field)
