"""What may be deleted, what is in the way, and which folders go with it."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import datasets, deletion, registry, runs, studies, uploads
from lcl_core.db.datasets import upsert_dataset
from lcl_core.db.models import ArtifactUpload, Dataset, DatasetVersion, EncoderRow, Run, StudyCell
from lcl_core.db.session import now
from lcl_core.specs.base import slug
from lcl_core.specs.parsing import parse_as, parse_spec
from lcl_core.specs.study import StudySpec


@pytest.fixture
def encoder(database):
    with database.session() as session:
        facts = {
            "path": "encoders/enc_1",
            "hash": "0" * 64,
            "identity": "0" * 64,
            "owner": "ada",
            "info": {},
            "created_at": now(session),
        }
        session.add(EncoderRow(id="enc_1", name="tiny", **facts))
    return "enc_1"


def refusal(database, sight=None):
    with database.session() as session, pytest.raises(UserError) as caught:
        deletion.delete_encoder(session, registry.get_encoder(session, "enc_1"), sight)
    assert caught.value.code == "conflict"
    return caught.value.message


def test_an_encoder_goes_with_what_is_known_of_its_files(database, encoder):
    with database.session() as session:
        uploads.enqueue_upload(session, "encoders/enc_1", 1, "home-1")
        assert deletion.delete_encoder(session, registry.get_encoder(session, "tiny")) == ["encoders/enc_1"]
    with database.reading() as session:
        assert session.get(ArtifactUpload, "encoders/enc_1") is None
        with pytest.raises(UserError):
            registry.get_encoder(session, encoder)


@pytest.mark.parametrize("named", ["tiny", "enc_1", "the tiny", "Thé tïny!"])
def test_a_run_that_waits_needs_it_by_id_or_name(database, queue, encoder, named):
    if named not in ("tiny", "enc_1"):  # name of the run that made it
        with database.session() as session:
            registry.get_encoder(session, encoder).name = slug(named)
            assert registry.get_encoder(session, named).id == encoder
    run_id = queue("evaluate", {"encoder": named}, owner="bob")
    queue("evaluate", {"encoder": "another"}, owner="ada")
    assert run_id in refusal(database)
    hidden = refusal(database, "ada")
    assert run_id not in hidden
    assert "a run of another owner" in hidden
    with database.session() as session:
        runs.cancel_run(session, run_id)
    with database.session() as session:
        deletion.delete_encoder(session, registry.get_encoder(session, encoder))


def test_specs_that_do_not_have_the_name_are_not_parsed(database, queue, encoder, monkeypatch):
    parsed = []

    def parse(kind, spec):
        parsed.append(spec)
        return parse_spec(kind, spec)

    monkeypatch.setattr(deletion, "parse_spec", parse)
    queue("evaluate", {"encoder": "another"})
    queue("pretrain", {"data": {"sources": [{"dataset": "others"}]}})
    run_id = queue("evaluate", {"encoder": "tiny", "dataset": "mine"})
    with database.session() as session:
        upsert_dataset(session, "mine", "/corpora/mine", owner="ada")
        with pytest.raises(UserError, match=run_id):
            deletion.check_encoder_name_unused(session, registry.get_encoder(session, encoder))
        with pytest.raises(UserError, match=run_id):
            deletion.delete_dataset(session, session.get_one(Dataset, "mine"))
    assert [spec["encoder"] for spec in parsed] == ["tiny", "tiny"]


@pytest.mark.parametrize("named", ["tiny", "enc_1"])
def test_a_pretraining_that_will_start_from_it_needs_it(database, queue, encoder, named):
    run_id = queue("pretrain", {"model": {"init": named}})
    assert run_id in refusal(database)


def test_a_study_that_will_start_from_it_needs_it(database, encoder):
    axis = {"name": "start", "variants": [{"name": "random"}, {"name": "tiny", "spec": {"model.init": "tiny"}}]}
    with database.session() as session:
        study = studies.create_study(session, parse_as(StudySpec, {**STUDY, "axes": [axis]}), owner="ada")
        started = {cell.labels["start"]: session.get_one(Run, cell.run_id) for cell in session.query(StudyCell)}
        assert started["tiny"].spec["model"]["init"] == "enc_1"
        assert started["random"].spec["model"]["init"] is None
        for run in started.values():  # the study itself is still active
            run.spec = started["random"].spec
        study_id = study.id
    assert study_id in refusal(database)


def test_many_in_the_way_are_counted(database, queue, encoder):
    for _ in range(7):
        queue("evaluate", {"encoder": "tiny"}, owner="ada")
    assert "2 more" in refusal(database, "ada")
    assert "7 runs of other owners" in refusal(database, "bob")


STUDY = {"metrics": [{"name": "IR@5", "metric": "IR@5"}], "pretrain": {"steps": 7}}


def test_what_a_study_is_going_to_examine_stays(database, encoder):
    with database.session() as session:
        study = studies.create_study(session, parse_as(StudySpec, STUDY), owner="ada")
        (cell,) = session.query(StudyCell).all()
        run = session.get_one(Run, cell.run_id)
        run.state, run.encoder_id = "succeeded", "enc_1"
        session.get_one(EncoderRow, "enc_1").run_id = run.id
        study_id = study.id
    assert study_id in refusal(database)
    with database.session() as session:
        studies.cancel_study(session, studies.get_study(session, study_id))
    with database.session() as session:
        deletion.delete_encoder(session, registry.get_encoder(session, "tiny"))


def test_a_dataset_goes_with_its_versions_and_names_the_services_folders_alone(database):
    with database.session() as session:
        for path, digest in (("datasets/data_1", "1"), ("/data/wiki", "2"), ("datasets/data_2", "3")):
            row = upsert_dataset(session, "wiki", path, "ada")
            datasets.record_version(session, row, digest * 64, None)
        assert deletion.delete_dataset(session, row) == ["datasets/data_2", "datasets/data_1"]
    with database.reading() as session:
        assert session.query(Dataset).count() == session.query(DatasetVersion).count() == 0


def test_what_comes_with_the_product_stays(database, encoder):
    with database.session() as session:
        sample, row = datasets.register_sample(session), session.get_one(EncoderRow, encoder)
        row.owner, row.path = "lcl", "/usr/lib/lcl/drawings"
        deletions = (
            lambda: deletion.delete_dataset(session, sample),
            lambda: deletion.delete_encoder(session, row, welcome=True),
        )
        for delete in deletions:
            with pytest.raises(UserError) as caught:
                delete()
            assert caught.value.code == "conflict"
        assert deletion.delete_encoder(session, row) == [], "the installation's files stay"
