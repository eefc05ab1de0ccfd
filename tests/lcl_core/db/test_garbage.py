"""Folders that no row names any more are kept for their grace and removed; what anything names or reads stays."""

import os
import time
from datetime import timedelta

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.db import garbage, runs, uploads
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.models import Dataset, EncoderRow, Garbage
from lcl_core.db.session import now

GRACE = 3600.0
UPLOAD = "data/uploads/upl_" + "0" * 18


@pytest.fixture
def settings(tmp_path, store_url):
    return Settings(home=tmp_path / "home", artifacts=store_url, gc_grace_seconds=GRACE)


@pytest.fixture
def put(settings):
    def write(path):
        folder = settings.home / path
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
        return folder

    return write


@pytest.fixture
def collect(database, settings):
    """One round, after the grace of everything that is recorded; how much was removed."""

    def round_(later=GRACE + 1):
        with database.session() as session:
            for row in session.query(Garbage):
                row.seen_at -= timedelta(seconds=later)
        return garbage.collect_garbage(database, settings, Artifacts(settings))

    return round_


def discard(database, path):
    with database.session() as session:
        uploads.discard_folder(session, path)


def test_a_discarded_folder_is_removed_after_its_grace(database, put, collect):
    folder = put("encoders/enc_1")
    discard(database, "encoders/enc_1")
    assert (collect(later=0), folder.is_dir()) == (0, True)
    assert (collect(), folder.exists()) == (1, False)
    with database.reading() as session:
        assert session.query(Garbage).count() == 0


def test_what_a_row_names_again_or_an_unfinished_run_reads_stays(database, put, collect, queue):
    named, read = put("encoders/enc_1"), put("datasets/data_1")
    for path in ("encoders/enc_1", "datasets/data_1"):
        discard(database, path)
    run_id = queue()
    with database.session() as session:
        facts = {"hash": "h", "identity": "h", "owner": "ada", "info": {}, "created_at": now(session)}
        session.add(EncoderRow(id="enc_1", name="e", path="encoders/enc_1", **facts))  # as of a restored backup
        runs.get_run(session, run_id).inputs = {"folders": ["datasets/data_1"]}
    assert collect() == 0
    assert named.is_dir()
    assert read.is_dir()
    with database.session() as session:
        runs.cancel_run(session, run_id)
    assert collect() == 1
    assert not read.exists()


@pytest.mark.parametrize("user", ["dataset", "run", None])
def test_an_upload_stays_while_it_is_used(database, put, collect, queue, settings, user):
    folder = put(UPLOAD)
    path = str(settings.home / UPLOAD / "corpus")
    with database.session() as session:
        uploads.discard(session, uploads.ANY_HOME, UPLOAD)
        if user == "dataset":
            session.add(Dataset(name="d", path=path, owner="ada", created_at=now(session)))
    if user == "run":
        queue("validate", {"path": path})
    assert collect() == (0 if user else 1)
    assert folder.is_dir() is (user is not None)


def test_the_copy_in_the_store_is_removed_too_and_the_store_may_be_away(database, settings, put, collect, monkeypatch):
    artifacts = Artifacts(settings)
    put("encoders/enc_1")
    with database.session() as session:
        uploads.enqueue_upload(session, "encoders/enc_1", 1, artifacts.holder)
        task = uploads.claim_upload(session, artifacts.holder)
    with database.session() as session:
        uploads.record_uploaded(session, task, artifacts.store.put(task.key, artifacts.home / task.path))
    discard(database, "encoders/enc_1")

    def refuse(*_):
        raise UserError("it is away", code="store_unreachable")

    with monkeypatch.context() as patch:
        patch.setattr("lcl_core.db.artifact_store.ArtifactStore.remove", refuse)
        assert collect() == 1
    assert artifacts.store._sizes("") != {}
    assert collect() == 1
    assert artifacts.store._sizes("") == {}


def test_a_folder_of_another_home_is_left_to_it(database, put, collect):
    folder = put("runs/run_1")
    with database.session() as session:
        uploads.enqueue_upload(session, "runs/run_1", 1, "b" * 32)
        uploads.discard_folder(session, "runs/run_1")
    collect()
    assert folder.is_dir()
    with database.reading() as session:
        assert [row.home for row in session.query(Garbage)] == ["b" * 32]


def test_unfinished_copies_beside_the_outputs_go_when_they_are_old(put, collect):
    old, new = put("encoders/.enc_1.0badcafe"), put("encoders/.enc_2.0badcafe")
    os.utime(old, (time.time() - 2 * GRACE,) * 2)
    collect()
    assert (old.exists(), new.exists()) == (False, True)
