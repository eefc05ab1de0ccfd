"""Whose a name is: the first owner's, the product's, and an admin's to use."""

from datetime import timedelta

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import complete_run, registry, runs
from lcl_core.db.models import EncoderRow
from lcl_core.db.session import now


def add_encoder(session, name, owner, row_id, **more):
    facts = {
        "path": f"encoders/{row_id}",
        "hash": "0" * 64,
        "identity": "0" * 64,
        "info": {},
        "created_at": now(session),
    }
    session.add(EncoderRow(id=row_id, name=name, owner=owner, **{**facts, **more}))
    session.flush()


@pytest.fixture
def code(database):
    """``code(noun, name, owner)``: of the refusal; None: the name may be used."""

    def try_name(noun, name, owner, **more):
        with database.session() as session:
            try:
                registry.check_name(session, noun, name, owner, **more)
            except UserError as error:
                return error.code if error.field == "name" else f"of the field {error.field}"
        return None

    return try_name


def test_the_first_owner_keeps_an_encoders_name(database, code):
    assert code("encoder", "tiny", "bob") is None
    with database.session() as session:
        moment = now(session)
        add_encoder(session, "tiny", "ada", "enc_2", created_at=moment)
        add_encoder(session, "tiny", "root", "enc_3", created_at=moment + timedelta(seconds=5))
    assert code("encoder", "tiny", "ada") is None
    assert code("encoder", "tiny", "bob") == code("encoder", "tiny", "root") == "conflict"
    assert code("encoder", "tiny", "bob", admin=True) is None
    assert code("dataset", "tiny", "bob") is None, "each kind has names of its own"


def test_the_name_of_a_runs_encoder_is_free_for_its_owner_alone(database, queue, claim, tmp_path):
    from lcl_core.encoders.files import sha256_file

    with database.session() as session:
        add_encoder(session, "mine", "ada", "enc_2")
    weights = tmp_path / "run" / "artifacts" / "encoder" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    run_id = queue(name="mine", owner="bob")
    result = {"encoder": {"path": "artifacts/encoder", "hash": sha256_file(weights)}}
    home = tmp_path / "home"
    assert (
        complete_run.complete_run(database, claim(), complete_run.RunSucceeded(result), tmp_path / "run", home, 1.0)
        == "succeeded"
    )
    with database.reading() as session:
        run = runs.get_run(session, run_id)
        assert (
            registry.get_encoder(session, str(run.encoder_id)).name == run.result["registered_as"] == f"mine-{run_id}"
        )
        assert registry.get_encoder(session, "mine").id == "enc_2"


def test_the_encoder_of_a_run_with_a_name_for_people_has_a_name_that_specs_accept(database, queue, claim, tmp_path):
    from lcl_core.encoders.files import sha256_file

    weights = tmp_path / "run" / "artifacts" / "encoder" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    run_id = queue(name="ux short!", owner="bob")
    result = {"encoder": {"path": "artifacts/encoder", "hash": sha256_file(weights)}}
    outcome = complete_run.RunSucceeded(result)
    complete_run.complete_run(database, claim(), outcome, tmp_path / "run", tmp_path / "home", 1.0)
    with database.reading() as session:
        run = runs.get_run(session, run_id)
        row = registry.get_encoder(session, "ux-short")
        assert row.id == run.encoder_id == registry.get_encoder(session, "ux short!").id
        assert (run.name, run.result["registered_as"]) == ("ux short!", "ux-short")
        assert row.info["display_name"] == "ux short!"
