"""A worker that shares only database and store with the one that made an encoder."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import runs
from lcl_core.db import submit as db_submit
from lcl_core.db.artifacts import Artifacts, upload_next
from tests.workers.in_process_worker import InProcessWorker
from tests.workers.toy_run import WEIGHTS


@pytest.fixture
def here(settings):
    """The machine that makes the encoder."""
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    return settings


@pytest.fixture
def there(here, tmp_path):
    """Another one, on the same database."""
    url = here.resolved_database_url
    return here.model_copy(update={"home": tmp_path / "other", "database_url": url})


@pytest.fixture
def encoder(database, here, modules, queue, run_of):
    """Made, and not sent yet."""
    run_id = queue()
    InProcessWorker(database, here, modules).work()
    assert run_of(run_id).state == "succeeded"
    return str(run_of(run_id).encoder_id)


@pytest.fixture
def examine(database, encoder):
    def submit():
        with database.session() as session:
            return db_submit.submit(session, "evaluate", {"encoder": encoder, "dataset": "sample"}).id

    return submit


def read_by(settings, run_id):
    run = RunDir(settings.runs_dir / run_id).read_run()
    (place,) = run["encoders"].values()
    return Path(place)


def test_it_reads_what_another_has_made(database, here, there, modules, examine, run_of):
    run_id = examine()
    while upload_next(database, Artifacts(here)):
        pass
    InProcessWorker(database, there, modules).work()
    assert run_of(run_id).state == "succeeded", run_of(run_id).reason
    place = read_by(there, run_id)
    assert place.is_relative_to(there.home / "cache" / "artifacts")
    assert (place / "model.safetensors").read_bytes() == WEIGHTS
    assert not (there.home / "encoders").exists()


@pytest.fixture
def work_there(database, there, modules):
    """One attempt of a run, which is due whatever its delay."""

    def attempt(run_id):
        with database.session() as session:
            run = runs.get_run(session, run_id)
            run.ready_at = run.queued_at
        InProcessWorker(database, there, modules).work()

    return attempt


def test_a_run_whose_input_takes_long_is_queued_again_until_it_has_come(database, here, work_there, examine, run_of):
    run_id = examine()
    for tries in range(1, 13):  # more often than a store that does not answer is tried
        work_there(run_id)
        waiting = run_of(run_id)
        assert (waiting.state, waiting.attempt, waiting.lease_token) == ("queued", 0, None)
        assert waiting.setbacks == {"artifacts_pending": tries}
        assert waiting.ready_at > waiting.queued_at
        assert "on their way to the store" in waiting.interruption["message"]
    while upload_next(database, Artifacts(here)):
        pass
    work_there(run_id)
    assert run_of(run_id).state == "succeeded", run_of(run_id).reason
