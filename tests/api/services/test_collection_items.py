"""Changes of the labels of images, in collections of a directory without a service."""

import json
from typing import cast

import numpy as np
import pytest
from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.services.collection_items import ChangeLabelsRequest, _relabel
from api.services.search import SearchRequest
from lcl_core.collections.collection import Collection
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.errors import UserError
from tests.lcl_core.collections.building import build_collection

NO_SESSION = cast(Session, None)  # no image is among the changes
LONG, TURNED = "a\tb" * 100, "right \u202b to left"


def collection_of(place, labels):
    item = CollectionItem("a.png", b"", "image/png", (), labels)
    build_collection(place, [item], np.ones((1, 4), dtype=np.float32), {}, name="it", encoder_hash="e" * 64)
    return Collection.open(place)


def relabel(collection, **change):
    body = ChangeLabelsRequest(ids=collection.vectors()[0], **change)
    changed = _relabel(NO_SESSION, "col_1", collection, body)
    return [item.change.record["labels"] for item in changed if item.change.record is not None]


def test_an_image_with_too_many_labels_may_lose_and_change_them_and_gets_no_more(tmp_path):
    labels = {f"label {number}": "x" for number in range(40)}
    collection = collection_of(tmp_path / "it", {**labels, "tags": '["red"]'})
    (fewer,) = relabel(collection, labels={"label 0": None})
    assert len(fewer) == 40
    (tagged,) = relabel(collection, add={"tags": ["checked"]}, labels={"label 1": None, "new": "y"})
    assert (len(tagged), tagged["tags"], tagged["new"]) == (41, '["red", "checked"]', "y")
    with pytest.raises(UserError, match="42 labels, of 32") as caught:
        relabel(collection, labels={"new": "y"})
    assert (caught.value.code, caught.value.field) == ("invalid_value", "ids.0")


def test_what_a_corpus_has_as_label_and_value_is_a_filter_and_can_be_removed(tmp_path):
    labels = {LONG: TURNED, "plain": LONG, "blank": "", "tags": json.dumps([LONG, TURNED, "", "red"])}
    collection = collection_of(tmp_path / "it", labels)
    listed = {label: values for label, values in collection.label_values().items() if label in labels}
    assert set(listed) == set(labels)
    for label, values in listed.items():
        for value in values:
            asked = [value, [value], *([{"any": [value]}, {"all": [value]}] if label == "tags" else [])]
            for choice in asked:
                where = SearchRequest(text="x", where={label: choice}).filters()
                assert len(collection.search(np.ones(4), 1, where=where)) == 1
    assert relabel(collection, remove={"tags": [LONG, TURNED, ""]}, labels={LONG: None}) == [
        {"plain": LONG, "blank": "", "tags": '["red"]'}
    ]


@pytest.mark.parametrize(
    "change", [{"labels": {LONG: "x"}}, {"labels": {"plain": LONG}}, {"add": {"tags": [TURNED]}}, {"labels": {"": "x"}}]
)
def test_a_new_label_or_value_has_one_short_line(change):
    with pytest.raises(ValidationError):
        ChangeLabelsRequest(ids=["img_1"], **change)


@pytest.mark.parametrize("choice", [["a"] * 1001, {"any": ["a"] * 1001}, "a" * 10_001, "a\0"])
def test_a_filter_has_limits(choice):
    with pytest.raises(ValidationError):
        SearchRequest(text="x", where={"kind": choice})
