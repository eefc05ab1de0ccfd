"""Datasets in versions, what a run read, and paths that stay inside the data roots."""

from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.db import artifacts, complete_run, datasets, leases
from lcl_core.specs.parsing import parse_spec


@pytest.fixture
def root(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def versions(database, name):
    with database.reading() as session:
        return [(row.version, row.content_hash, Path(row.path).name) for row in datasets.list_versions(session, name)]


def test_other_contents_are_a_new_version_and_the_same_ones_are_none(database, root):
    for folder, digest in (("one", "a" * 64), ("one", "a" * 64), ("two", "a" * 64), ("two", "b" * 64)):
        with database.session() as session:
            row = datasets.register_dataset(session, "mine", root / folder, [root], "ada", new_version=True)
            datasets.record_version(session, row, digest, {"documents": 1})
    assert versions(database, "mine") == [(2, "b" * 64, "two"), (1, "a" * 64, "two")]
    with database.reading() as session:
        assert datasets.get_dataset(session, "mine").content_hash == "b" * 64
        with pytest.raises(UserError) as caught:
            datasets.list_versions(session, "absent")
    assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    ("statistics", "field", "lacks"),
    [
        ({"documents": 0, "pairs": 5}, "data.sources.1.view", "no documents"),
        ({"documents": 5, "pairs": 0}, "data.sources.2.view", "no captioned images"),
        ({"documents": 1, "pairs": 1}, None, ""),
        (None, None, ""),
    ],
)
def test_a_source_whose_dataset_lacks_what_its_view_reads_is_refused(database, root, statistics, field, lacks):
    sources = [{"dataset": "sample"}, {"dataset": "mine"}, {"dataset": "mine", "view": "pairs"}]
    with database.session() as session:
        datasets.register_sample(session)
        row = datasets.register_dataset(session, "mine", root / "one", [root], "ada")
        datasets.record_version(session, row, "a" * 64, statistics)
        spec = parse_spec("pretrain", {"data": {"sources": sources}})
        if field is None:
            datasets.check_views(session, spec)
            return
        with pytest.raises(UserError, match=f"dataset 'mine' has {lacks}") as caught:
            datasets.check_views(session, spec)
    assert (caught.value.code, caught.value.field) == ("no_data", field)


def test_a_pre_training_notes_the_hashes_that_it_computed(database, root, queue, claim, run_of):
    run_id = queue("pretrain")
    claimed = claim()
    with database.session() as session:
        read = {"datasets": {"sample": None, "mine": "a" * 64}}
        leases.begin_attempt(session, claimed, encoder_id=None, from_scratch=True, inputs=read)
    weights = root / "run" / "artifacts" / "encoder" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    encoder = {"path": "artifacts/encoder", "hash": sha256_file(weights)}
    result = {"encoder": encoder, "dataset_hashes": {"sample": "b" * 64}}
    complete_run.complete_run(database, claimed, complete_run.RunSucceeded(result), root / "run", root, 1.0)
    assert run_of(run_id).inputs == {"datasets": {"sample": "b" * 64, "mine": "a" * 64}}


def test_a_converted_dataset_is_registered_and_shares_its_bytes_with_the_run(database, queue, claim, tmp_path):
    shard = tmp_path / "run" / "artifacts" / "dataset" / "shards" / "00000-00000-000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"tar")
    home = tmp_path / "home"
    made = {"path": "artifacts/dataset", "content_hash": "c" * 64, "statistics": {"documents": 7}}
    run_id = queue("convert", {"path": "/x", "name": "made"}, owner="ada")
    settled = complete_run.complete_run(
        database, claim(), complete_run.RunSucceeded({"dataset": made}), tmp_path / "run", home, 1.0
    )
    assert settled == "succeeded"
    with database.reading() as session:
        row, (version,) = datasets.get_dataset(session, "made"), datasets.list_versions(session, "made")
        assert (row.owner, row.content_hash, row.statistics) == ("ada", "c" * 64, {"documents": 7})
        assert (version.run_id, version.path) == (run_id, row.path)
        copy = artifacts.absolute_path(home, row.path) / "shards" / "00000-00000-000.tar"
    assert copy.read_bytes() == b"tar"
    assert copy.stat().st_ino == shard.stat().st_ino
