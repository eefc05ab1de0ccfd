"""Menus are ordered by quality: a newer encoder does not come first because it is newer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ui.ranking import (
    HARDLY_TRAINED,
    WORSE,
    collection_choices,
    dataset_choices,
    encoder_choices,
    linked_collection,
    main_figures,
    quality_badge,
    rank_encoders,
)


def encoder(name: str, steps: int = 500, owner: str = "someone") -> dict[str, Any]:
    return {"id": f"enc_{name}", "name": name, "owner": owner, "info": {"steps": steps}}


def recall(value: float, untrained: float = 0.01) -> list[dict[str, Any]]:
    return [{"task": "retrieval", "split": "test", "metric": "IR@5", "value": value, "untrained": untrained}]


def names(service: Any, encoders: list[dict[str, Any]], **figures: list[dict[str, Any]]) -> list[str]:
    client = service(encoders=encoders, encoder_figures=lambda id: figures.get(id.removeprefix("enc_"), []))
    return [each.encoder["name"] for each in rank_encoders(client)]


def test_the_encoder_of_the_product_comes_first_until_a_better_one_is_evaluated_beside_it(service: Any) -> None:
    shipped = encoder("drawings", 1600, "lcl")
    newer = [encoder("newest"), encoder("good"), encoder("fair"), shipped]
    figures = {"good": recall(0.3), "fair": recall(0.2)}
    assert names(service, newer, **figures) == ["drawings", "good", "fair", "newest"]
    assert names(service, newer, **figures, drawings=recall(0.28)) == ["good", "drawings", "fair", "newest"]


def test_figures_of_a_model_card_are_not_compared_with_those_of_evaluations(service: Any) -> None:
    encoders = [encoder("good"), encoder("drawings", 1600, "lcl")]
    card = [{**row, "source": "model card"} for row in recall(0.28)]
    assert names(service, encoders, good=recall(0.3), drawings=card) == ["drawings", "good"]
    measured = [*recall(0.2), *card]
    assert names(service, encoders, good=recall(0.3), drawings=measured) == ["good", "drawings"]


def test_a_pinned_encoder_comes_first_whatever_its_figures(service: Any) -> None:
    encoders = [encoder("good"), {**encoder("short", steps=3), "pinned": True}, encoder("drawings", 1600, "lcl")]
    assert names(service, encoders, good=recall(0.3)) == ["short", "drawings", "good"]


def test_throw_away_encoders_come_last_with_a_badge(service: Any) -> None:
    encoders = [encoder("worse"), encoder("short", steps=3), encoder("plain"), encoder("drawings", 1600, "lcl")]
    figures = {"enc_worse": recall(0.009)}
    client = service(encoders=encoders, encoder_figures=lambda id: figures.get(id, []))
    assert encoder_choices(client) == [
        ("drawings", "enc_drawings"),
        ("plain", "enc_plain"),
        (f"worse · {WORSE}", "enc_worse"),
        (f"short · {HARDLY_TRAINED}", "enc_short"),
    ]


def test_a_collection_stands_where_its_encoder_does(service: Any) -> None:
    collections = [
        {"id": "col_1", "name": "new", "images": 9, "encoder_id": "enc_worse"},
        {"id": "col_2", "name": "foreign", "images": 1, "encoder_id": None},
        {"id": "col_3", "name": "old", "images": 3836, "encoder_id": "enc_drawings"},
    ]
    encoders = [encoder("worse"), encoder("drawings", 1600, "lcl")]
    figures = {"enc_worse": recall(0.009)}
    client = service(collections=collections, encoders=encoders, encoder_figures=lambda id: figures.get(id, []))
    assert collection_choices(client) == [
        ("old · 3,836 images", "col_3"), (f"new · 9 images · {WORSE}", "col_1"), ("foreign · 1 images", "col_2"),
    ]  # fmt: skip


def test_an_address_without_a_collection_means_the_preferred_one(service: Any) -> None:
    collections = [
        {"id": "col_1", "name": "new", "images": 9, "encoder_id": "enc_worse"},
        {"id": "col_3", "name": "old", "images": 3836, "encoder_id": "enc_drawings"},
    ]
    encoders = [encoder("worse"), encoder("drawings", 1600, "lcl")]
    figures = {"enc_worse": recall(0.009)}
    client = service(collections=collections, encoders=encoders, encoder_figures=lambda id: figures.get(id, []))
    assert linked_collection(client, "", None) == "col_3", "not the newest"
    used: Any = SimpleNamespace(cookies={"lcl-collection": "col_1"})
    assert linked_collection(client, "", used) == "col_1"
    assert [linked_collection(client, name, used) for name in ("old", "col_3", "gone")] == ["col_3", "col_3", None]
    assert linked_collection(service(collections=[]), "", used) is None


def test_the_sample_is_the_first_dataset(service: Any) -> None:
    client = service(datasets=[{"name": "new"}, {"name": "sample"}])
    assert dataset_choices(client) == [("sample", "sample"), ("new", "new")]


@pytest.mark.parametrize(
    ("metric", "value", "badge"),
    [("IR@5", 0.01, WORSE), ("IR@5", 0.011, ""), ("IR median rank", 295, ""), ("IR median rank", 301, WORSE)],
)
def test_ranks_are_better_when_lower(metric: str, value: float, badge: str) -> None:
    untrained = 300 if metric.endswith("rank") else 0.01
    rows = [{"task": "retrieval", "split": "test", "metric": metric, "value": value, "untrained": untrained}]
    assert quality_badge(encoder("any"), rows, 500) == badge
    assert main_figures(rows) == rows
