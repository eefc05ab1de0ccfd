"""The checksums of an opened collection: compared in the background."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lcl_core.collections.collection import Collection
from lcl_core.collections.file_format import BackgroundVerification
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.errors import UserError
from tests.lcl_core.collections.building import build_collection


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


def verification(place):
    return BackgroundVerification(place, Collection.open(place).manifest)


@pytest.mark.parametrize("name", ["image_vectors.bin", "texts.jsonl", "images.blob"])
def test_a_damaged_file_is_found_in_the_background(place, name, eventually):
    turn(place / name)
    found = verification(place)

    def is_refused():
        try:
            found.check()
        except UserError as error:
            return error.code == "collection_changed" and f"{name} is damaged" in error.message
        return False

    eventually(is_refused, "the end of the comparison")


@pytest.mark.parametrize("name", ["labels.json", "item_keys.npy", "text_item_starts.npy"])
def test_what_cannot_even_be_opened_names_the_file(place, name):
    turn(place / name)
    with pytest.raises(UserError, match=f"{name} is damaged") as caught:
        Collection.open(place)
    assert caught.value.code == "collection_changed"


def test_one_that_is_removed_meanwhile_is_no_damage(place):
    manifest = Collection.open(place).manifest
    for file in place.iterdir():
        file.unlink()
    found = BackgroundVerification(place, manifest)
    for thread in threading.enumerate():
        if thread.name == "lcl-checksums":
            thread.join(30)
    found.check()


def test_what_is_damaged_is_not_taken_over_by_a_run_that_adds(place):
    turn(place / "image_vectors.bin")
    with pytest.raises(UserError) as caught:
        Collection.open(place, verify=True)
    assert caught.value.code == "collection_changed"
