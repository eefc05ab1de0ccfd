"""A study keeps the encoders that its names stood for when it was made, whatever gets the names later."""

from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import studies as db_studies
from lcl_core.db.models import EncoderRow
from lcl_core.db.session import now
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import AdditionSpec

Json = dict[str, Any]
STARTED: Json = {"steps": 10, "model": {"init": "base"}}
TUNED: Json = {"tasks": ["tuned_retrieval"], "tuned_retrieval": {"text_encoder": "minilm"}}


def register(database, encoder_id, name):
    with database.session() as session:
        facts = {"path": f"encoders/{encoder_id}", "hash": "0" * 64, "identity": "0" * 64, "owner": "ada", "info": {}}
        session.add(EncoderRow(id=encoder_id, name=name, created_at=now(session), **facts))


def started_from(studies, study_id):
    """The encoder that each cell of the study starts from."""
    runs = {run.id: run for run in studies.runs("pretrain")}
    return [runs[cell.run_id].spec["model"]["init"] for cell in studies.cells(study_id)]


def extend(studies, study_id, **addition):
    return studies.act(db_studies.extend_study, study_id, parse_as(AdditionSpec, addition))


@pytest.fixture
def database(database):
    """With an encoder of each name in use."""
    for name in ("base", "minilm"):
        register(database, f"enc_{name}_1", name)
    return database


def test_added_seeds_start_from_the_encoder_that_the_others_had(studies, database):
    study_id = studies.make(studies.spec(axes=[], seeds=[0], pretrain=STARTED))
    register(database, "enc_base_2", "base")
    extend(studies, study_id, seeds=[1])
    assert started_from(studies, study_id) == ["enc_base_1"] * 2


def test_a_repeated_request_finds_its_study_whatever_the_name_is_now(studies, database):
    spec = studies.spec(pretrain=STARTED)
    first = studies.make(spec, idempotency_key="k")
    register(database, "enc_base_2", "base")
    assert studies.make(spec, idempotency_key="k") == first
    assert studies.make(spec) != first


def test_an_unknown_encoder_is_refused_with_its_field(studies):
    with pytest.raises(UserError) as caught:
        studies.make(studies.spec(pretrain={"steps": 10, "model": {"init": "absent"}}))
    assert (caught.value.code, caught.value.field) == ("not_found", "model.init")
    assert studies.runs() == []
