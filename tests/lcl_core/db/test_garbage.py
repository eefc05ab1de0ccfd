"""What may be deleted, and what no row names any more: kept for its grace, then removed."""

import os
import time
from datetime import timedelta

import pytest
from sqlalchemy import text

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.db import artifacts, datasets, garbage, registry, runs, studies
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.models import ArtifactUpload, Dataset, DatasetVersion, EncoderRow, Garbage, Run, StudyCell
from lcl_core.db.session import now
from lcl_core.specs.base import slug
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec

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
        artifacts.discard_folder(session, path)


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
        artifacts.discard(session, artifacts.ANY_HOME, UPLOAD)
        if user == "dataset":
            session.add(Dataset(name="d", path=path, owner="ada", created_at=now(session)))
    if user == "run":
        queue("validate", {"path": path})
    assert collect() == (0 if user else 1)
    assert folder.is_dir() is (user is not None)


def test_the_copy_in_the_store_is_removed_too_and_the_store_may_be_away(
    database, settings, put, collect, objects, monkeypatch
):
    local, path = Artifacts(settings), "encoders/enc_1"
    put(path)
    with database.session() as session:
        artifacts.enqueue_upload(session, path, 1, local.holder)
    assert artifacts.upload_next(database, local)
    discard(database, path)

    def refuse(*_):
        raise UserError("it is away", code="store_unreachable")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.ArtifactStore, "remove", refuse)
        assert collect() == 1
    assert objects() != {}
    assert collect() == 1
    assert objects() == {}


def test_unfinished_copies_beside_the_outputs_go_when_they_are_old(put, collect):
    old, new = put("encoders/.enc_1.0badcafe"), put("encoders/.enc_2.0badcafe")
    os.utime(old, (time.time() - 2 * GRACE,) * 2)
    collect()
    assert (old.exists(), new.exists()) == (False, True)


STUDY = {"metrics": [{"name": "IR@5", "metric": "IR@5"}], "pretrain": {"steps": 7}}


@pytest.fixture
def encoder(database):
    with database.session() as session:
        fields = {"hash": "0" * 64, "identity": "0" * 64, "owner": "ada", "info": {}, "created_at": now(session)}
        session.add(EncoderRow(id="enc_1", name="tiny", path="encoders/enc_1", **fields))
    return "enc_1"


def delete(database, visible_to=None, **options):
    with database.session() as session:
        return garbage.delete_encoder(session, registry.get_encoder(session, "enc_1"), visible_to, **options)


def refusal(database, visible_to=None):
    with pytest.raises(UserError) as caught:
        delete(database, visible_to)
    assert caught.value.code == "conflict"
    return caught.value.message


def test_an_encoder_is_deleted_with_what_is_known_of_its_files(database, encoder):
    with database.session() as session:
        artifacts.enqueue_upload(session, "encoders/enc_1", 1, "home-1")
    assert delete(database) == ["encoders/enc_1"]
    with database.reading() as session:
        assert session.get(ArtifactUpload, "encoders/enc_1") is None
        assert session.get(EncoderRow, encoder) is None


@pytest.mark.parametrize("named", ["tiny", "enc_1", "Thé tïny!"])
def test_a_waiting_run_needs_it_by_id_or_name(database, queue, encoder, named):
    if named == "Thé tïny!":  # name of the run that made it
        with database.session() as session:
            registry.get_encoder(session, encoder).name = slug(named)
    run_id = queue("evaluate", {"encoder": named, "dataset": "mine"}, owner="bob")
    queue("evaluate", {"encoder": "another"}, owner="ada")
    assert run_id in refusal(database)
    assert run_id not in refusal(database, "ada")
    assert "a run of another owner" in refusal(database, "ada")
    with database.session() as session:
        mine = datasets.upsert_dataset(session, "mine", "/corpora/mine", owner="ada")
        with pytest.raises(UserError, match=run_id):
            garbage.delete_dataset(session, mine)
    with database.session() as session:
        runs.cancel_run(session, run_id)
    delete(database)


def test_specs_without_its_name_are_not_read(database, queue):
    """A service may have 300,000 queued runs, and nobody writes until the deletion has ended."""
    other = queue()
    with database.session() as session:
        session.execute(text("UPDATE run SET spec = 'unreadable' WHERE id = :other"), {"other": other})
        garbage.delete_dataset(session, datasets.upsert_dataset(session, "mine", "/corpora/mine", "ada"))


def test_a_dataset_whose_name_is_another_value_of_a_spec_is_deleted(database, queue):
    queue("pretrain")
    with database.session() as session:
        spec = {**STUDY, "question": "wiki", "evaluate": {"dataset": "held", "tasks": ["retrieval"]}}
        study_id = studies.create_study(session, parse_as(StudySpec, spec), "wiki", "ada").id
        for name in ("lcl", "retrieval", "wiki"):
            garbage.delete_dataset(session, datasets.upsert_dataset(session, name, f"/corpora/{name}", "ada"))
        with pytest.raises(UserError, match=study_id):
            garbage.delete_dataset(session, datasets.upsert_dataset(session, "held", "/corpora/held", "ada"))


def test_a_study_that_will_evaluate_it_needs_it(database, encoder):
    with database.session() as session:
        study_id = studies.create_study(session, parse_as(StudySpec, STUDY), owner="ada").id
        (cell,) = session.query(StudyCell).all()
        run = session.get_one(Run, cell.run_id)
        run.state, run.encoder_id = "succeeded", "enc_1"
        session.get_one(EncoderRow, "enc_1").run_id = run.id
    assert study_id in refusal(database)
    with database.session() as session:
        studies.cancel_study(session, studies.get_study(session, study_id))
    delete(database)


def test_a_dataset_is_deleted_with_its_versions_and_with_folders_of_the_service_alone(database):
    with database.session() as session:
        for path, digest in (("datasets/data_1", "1"), ("/data/wiki", "2"), ("datasets/data_2", "3")):
            row = datasets.upsert_dataset(session, "wiki", path, "ada")
            datasets.record_version(session, row, digest * 64, None)
        assert garbage.delete_dataset(session, row) == ["datasets/data_2", "datasets/data_1"]
    with database.reading() as session:
        assert session.query(Dataset).count() == session.query(DatasetVersion).count() == 0


def test_what_comes_with_the_product_stays(database, encoder):
    with database.session() as session:
        sample, row = datasets.register_sample(session), session.get_one(EncoderRow, encoder)
        row.owner, row.path = "lcl", "/usr/lib/lcl/drawings"
        with pytest.raises(UserError, match="stays"):
            garbage.delete_dataset(session, sample)
    with pytest.raises(UserError, match="LCL_WELCOME"):
        delete(database, welcome=True)
    assert delete(database) == [], "the installation's files stay"
