"""What a fresh service has to offer, and that a second start offers nothing twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from lcl_core.db import datasets, registry, runs, seed
from lcl_core.encoders.files import identity_hash
from lcl_core.pretrained import PretrainedEncoder

FOUND = PretrainedEncoder("drawer", Path("/opt/one/drawer"), "0123456789abcdef" * 4, {"parameters": 7})


@pytest.fixture
def comes_with(monkeypatch):
    """The encoders that come with the product, to be changed by a test."""
    found = [FOUND]
    monkeypatch.setattr("lcl_core.db.seed.pretrained_encoders", lambda: found)
    return found


def start(database):
    with database.session() as session:
        datasets.register_sample(session)
        return [row.id for row in seed.seed_database(session)]


def test_a_fresh_service_has_the_encoder_and_queues_its_index(database, comes_with):
    (identity,) = start(database)
    with database.reading() as session:
        (encoder,) = registry.list_encoders(session)
        assert (encoder.id, encoder.name, encoder.path) == (identity, "drawer", "/opt/one/drawer")
        info = {"parameters": 7, "files": {"model.safetensors": FOUND.hash}}
        assert (encoder.hash, encoder.info, encoder.run_id) == (FOUND.hash, info, None)
        assert encoder.identity == identity_hash(info["files"])
        (run,) = runs.list_runs(session).items
        assert (run.kind, run.state, run.owner) == ("index", "queued", "lcl")
        assert (run.spec["encoder"], run.spec["dataset"]) == (identity, "sample")


def test_later_starts_add_nothing(database, comes_with):
    first = start(database)
    comes_with[0] = replace(FOUND, directory=Path("/opt/two/drawer"))
    assert start(database) == first
    with database.reading() as session:
        assert [row.path for row in registry.list_encoders(session)] == ["/opt/two/drawer"]
        assert len(runs.list_runs(session).items) == 1


def test_a_superseded_encoder_stays_where_it_is_and_comes_to_no_new_service(database, comes_with):
    newer = replace(FOUND, name="painter", directory=Path("/opt/two/painter"), hash="fedcba9876543210" * 4)
    first = start(database)
    comes_with[:] = [replace(FOUND, directory=Path("/opt/two/drawer"), superseded="painter"), newer]
    assert start(database)[0] == first[0]
    with database.reading() as session:
        rows = {row.name: row.path for row in registry.list_encoders(session)}
    assert rows == {"drawer": "/opt/two/drawer", "painter": "/opt/two/painter"}
