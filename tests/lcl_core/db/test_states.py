"""Every verb in every state, and what resume, retry and delete keep."""

from lcl_core.db import leases, registry, runs


def test_resume_and_retry_begin_anew_but_only_retry_forgets(database, queue, claim, run_of):
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


def test_delete_removes_metrics_and_tags_but_not_what_the_run_made(database, queue):
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
