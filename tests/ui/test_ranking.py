"""Menus are in the order of the service: a newer encoder does not come first because it is newer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ui.ranking import collection_choices, dataset_choices, encoder_choices, linked_collection

ENCODERS = [
    {"id": "enc_drawings", "name": "drawings", "figures": [], "badge": ""},
    {"id": "enc_worse", "name": "worse", "figures": [], "badge": "worse than untrained"},
]


def test_encoders_are_asked_for_once_and_have_their_badge(service: Any) -> None:
    client = service(encoders=ENCODERS)
    assert encoder_choices(client) == [("drawings", "enc_drawings"), ("worse · worse than untrained", "enc_worse")]
    assert client.calls == [("encoders", (), {"order": "quality"})]


def test_a_collection_stands_where_its_encoder_does(service: Any) -> None:
    collections = [
        {"id": "col_1", "name": "new", "images": 9, "encoder_id": "enc_worse"},
        {"id": "col_2", "name": "foreign", "images": 1, "encoder_id": None},
        {"id": "col_3", "name": "old", "images": 3836, "encoder_id": "enc_drawings"},
    ]
    client = service(collections=collections, encoders=ENCODERS)
    assert collection_choices(client) == [
        ("old · 3,836 images", "col_3"),
        ("new · 9 images · worse than untrained", "col_1"),
        ("foreign · 1 images", "col_2"),
    ]


def test_an_address_without_a_collection_means_the_preferred_one(service: Any) -> None:
    collections = [
        {"id": "col_1", "name": "new", "images": 9, "encoder_id": "enc_worse"},
        {"id": "col_3", "name": "old", "images": 3836, "encoder_id": "enc_drawings"},
    ]
    client = service(collections=collections, encoders=ENCODERS)
    assert linked_collection(client, "", None) == "col_3", "not the newest"
    used: Any = SimpleNamespace(cookies={"lcl-collection": "col_1"})
    assert linked_collection(client, "", used) == "col_1"
    assert [linked_collection(client, name, used) for name in ("old", "col_3", "gone")] == ["col_3", "col_3", None]
    assert linked_collection(service(collections=[]), "", used) is None


def test_the_sample_is_the_first_dataset(service: Any) -> None:
    client = service(datasets=[{"name": "new"}, {"name": "sample"}])
    assert dataset_choices(client) == [("sample", "sample"), ("new", "new")]
