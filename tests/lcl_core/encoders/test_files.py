"""All files of an encoder in one hash, and what is said of those that changed."""

from __future__ import annotations

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.files import (
    changed_files,
    check_unchanged,
    combined_weights_hash,
    data_files,
    hash_files,
    hash_weights,
    identity_hash,
)

NAMES = ("config.json", "merges.txt", "model.safetensors", "tokenizer.json")


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name in (*NAMES, "README.md", "pytorch_model.bin", "modeling.py"):
        (folder / name).write_text(f"this is {name}")
    (folder / "linked.json").symlink_to(folder / "config.json")
    return folder


def test_it_is_of_the_data_files_alone(directory):
    assert [path.name for path in data_files(directory)] == ["README.md", *NAMES]
    known = identity_hash(hash_files(directory))
    (directory / "modeling.py").unlink()
    (directory / "README.md").write_text("another model card decides nothing")
    assert identity_hash(hash_files(directory)) == known
    assert data_files(directory / "absent") == []


@pytest.mark.parametrize("name", NAMES)
def test_every_file_counts_by_name_and_content(directory, name):
    before = hash_files(directory)
    (directory / name).write_text("another content")
    after = hash_files(directory)
    assert changed_files(before, after) == [name]
    assert identity_hash(after) != identity_hash(before)
    (directory / name).rename(directory / f"a-{name}")
    assert identity_hash(hash_files(directory)) not in (identity_hash(before), identity_hash(after))


@pytest.mark.parametrize("weights", [("model.safetensors",), ("config.json", "model.safetensors")])
def test_the_weights_hash_is_the_same_from_hashes_and_from_files(directory, weights):
    assert combined_weights_hash(hash_files(directory), weights) == hash_weights(directory, weights)


def test_what_changed_is_named(directory):
    known = hash_files(directory)
    check_unchanged(known, hash_files(directory))
    (directory / "tokenizer.json").write_text("x")
    with pytest.raises(UserError, match=r"^tokenizer\.json of this encoder changed") as caught:
        check_unchanged(known, hash_files(directory))
    assert caught.value.code == "encoder_changed"
    (directory / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is gone") as caught:
        check_unchanged(known, hash_files(directory))
    assert caught.value.code == "encoder_unreadable"


def test_a_file_that_came_beside_the_others_is_a_change(directory):
    """A library reads what it finds: another tokenizer's configuration, for one."""
    known = hash_files(directory)
    (directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer_config\.json"):
        check_unchanged(known, hash_files(directory))
