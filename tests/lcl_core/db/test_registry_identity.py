"""A collection's own encoder, its equals, and those that only look like it."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import registry
from lcl_core.db.models import CollectionRow, EncoderRow
from lcl_core.db.session import now

WEIGHTS = "a" * 64
OWN = {"model.safetensors": WEIGHTS, "tokenizer.json": "1" * 64}
OTHER_TEXT = {**OWN, "tokenizer.json": "2" * 64}


def encoder(session, row_id, files):
    digest = files["model.safetensors"]
    facts = {"hash": digest, "owner": "ada", "info": {}, "created_at": now(session)}
    row = EncoderRow(id=row_id, name=row_id[4:], path=f"encoders/{row_id}", **facts)
    registry.set_encoder_files(row, files)
    session.add(row)
    session.flush()
    return row


@pytest.fixture
def furnished(database):
    """An encoder with a collection, an equal one, a twin, and one of other weights."""
    with database.session() as session:
        own = encoder(session, "enc_2_own", OWN)
        encoder(session, "enc_1_equal", OWN)
        encoder(session, "enc_3_twin", OTHER_TEXT)
        encoder(session, "enc_4_other", {"model.safetensors": "b" * 64})
        facts = {"images": 0, "texts": 0, "dim": 4, "owner": "ada", "created_at": now(session)}
        names = {"encoder_id": own.id, "encoder_hash": own.hash, "encoder_identity": own.identity}
        session.add(CollectionRow(id="col_1", name="few", path="collections/col_1", **facts, **names))
    return database


def test_a_collections_encoder_is_the_one_that_it_names(furnished):
    with furnished.reading() as session:
        row = registry.get_collection(session, "few")
        own = registry.collection_encoder(session, row)
        assert own is not None
        assert own.id == "enc_2_own"
        assert [each.id for each in registry.identical_encoders(session, row)] == ["enc_1_equal"]


def test_of_a_deleted_one_the_equal_ones_are_known(furnished):
    with furnished.session() as session:
        session.delete(session.get_one(EncoderRow, "enc_2_own"))
    with furnished.reading() as session:
        row = registry.get_collection(session, "few")
        assert registry.collection_encoder(session, row) is None
        assert [each.id for each in registry.identical_encoders(session, row)] == ["enc_1_equal"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("2_own", None),
        ("1_equal", None),
        ("3_twin", "other files beside the same weights"),
        ("4_other", "other weights"),
    ],
)
def test_only_an_equal_one_adds_to_it(furnished, name, says):
    with furnished.reading() as session:
        row = registry.get_collection(session, "few")
        asked = registry.get_encoder(session, name)
        if says is None:
            registry.check_collection_encoder(session, row, asked)
            return
        with pytest.raises(UserError) as caught:
            registry.check_collection_encoder(session, row, asked)
        assert (caught.value.code, caught.value.field) == ("encoder_mismatch", "encoder")
        assert says in caught.value.message
        assert "enc_2_own" in caught.value.message
