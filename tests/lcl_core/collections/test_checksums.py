"""The checksums of an opened collection: compared once, at once where it is small, else meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lcl_core.collections import file_format
from lcl_core.collections.collection import Collection
from lcl_core.collections.file_format import ChecksumVerifier
from lcl_core.collections.writer import CollectionItem, build_collection
from lcl_core.common.errors import UserError


@pytest.fixture
def place(tmp_path):
    items = [
        CollectionItem(f"{name}.png", name.encode(), "image/png", captions=(name,)) for name in ("ant", "bee", "cat")
    ]
    vectors = np.eye(4, dtype=np.float32)[:3]
    texts = {item.captions[0]: vector for item, vector in zip(items, vectors, strict=True)}
    build_collection(tmp_path / "few", items, vectors, texts, name="few", encoder_hash="e" * 64)
    return tmp_path / "few"


def turn(file):
    """The same size, another content."""
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))


def check_of(place, at_once=1 << 30):
    return ChecksumVerifier(place, Collection.open(place).manifest, at_once)


@pytest.mark.parametrize("name", ["image_vectors.bin", "texts.jsonl", "images.blob"])
def test_a_small_collection_is_refused_at_once(place, name):
    turn(place / name)
    check = check_of(place)
    for _ in range(2):
        with pytest.raises(UserError, match=f"{name} is damaged.* index run") as caught:
            check.check()
        assert caught.value.code == "collection_changed"
    assert not check.is_outdated


@pytest.mark.parametrize("name", ["labels.json", "item_keys.npy", "text_item_starts.npy"])
def test_what_cannot_even_be_opened_names_the_file(place, name):
    turn(place / name)
    with pytest.raises(UserError, match=f"{name} is damaged") as caught:
        Collection.open(place)
    assert caught.value.code == "collection_changed"


def test_a_whole_collection_is_read_once(place, monkeypatch):
    read: list[str] = []
    real = file_format.sha256_file
    monkeypatch.setattr(file_format, "sha256_file", lambda path: (read.append(path.name), real(path))[1])
    check = check_of(place)
    callers = [threading.Thread(target=check.check) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    check.check()
    assert len(read) == len(set(read)) == len(Collection.open(place).manifest.files)
    assert read[-1] == "images.blob", "what decides a search comes before the images"


def test_a_large_one_answers_while_it_is_read(place, monkeypatch, eventually):
    go_on = threading.Event()
    real = file_format.sha256_file
    monkeypatch.setattr(file_format, "sha256_file", lambda path: (go_on.wait(60), real(path))[1])
    turn(place / "image_vectors.bin")
    check = check_of(place, at_once=0)
    check.check()  # nobody waits for it
    go_on.set()

    def refuses():
        try:
            check.check()
        except UserError as error:
            return error.code == "collection_changed"
        return False

    eventually(refuses, "the end of the comparison")
    assert not check.is_outdated
    turn(place / "image_vectors.bin")
    assert check.is_outdated, "restored: it is to be opened anew"
    check_of(place).check()


def test_one_that_is_removed_meanwhile_is_no_damage(place):
    check = check_of(place)
    for file in place.iterdir():
        file.unlink()
    check.check()


def test_what_is_damaged_is_not_taken_over_by_a_run_that_adds(place):
    turn(place / "image_vectors.bin")
    with pytest.raises(UserError) as caught:
        Collection.open(place, verify=True)
    assert caught.value.code == "collection_changed"
