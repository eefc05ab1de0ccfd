"""Encoders are ordered by quality: a newer one does not come first because it is newer."""

import time
from types import SimpleNamespace

import pytest

from api.services.encoder_figures import HARDLY_TRAINED, WORSE, encoders_by_quality, main_figures
from lcl_core.db import registry, runs
from lcl_core.db.models import EncoderRow


def encoder(name, steps=500, owner="someone", **info):
    return EncoderRow(id=f"enc_{name}", name=name, owner=owner, pinned=False, info={"steps": steps, **info})


def recall(value, metric="IR@5", task="retrieval"):
    return [{"task": task, "split": "test", "metric": metric, "value": value, "untrained": 0.01}]


@pytest.fixture
def ranked(monkeypatch):
    def rank(encoders, **figures):
        measured = {f"enc_{name}": rows for name, rows in figures.items()}
        monkeypatch.setattr(registry, "list_encoders", lambda _: encoders)
        monkeypatch.setattr(runs, "evaluation_rows", lambda _: measured)
        return [(row.name, badge) for row, _, badge in encoders_by_quality(SimpleNamespace())]

    return rank


def test_the_encoder_of_the_product_comes_first_until_a_better_one_is_evaluated_beside_it(ranked):
    card = recall(0.28)
    encoders = [encoder("newest"), encoder("good"), encoder("fair"), encoder("drawings", 1600, "lcl", figures=card)]
    names = lambda **figures: [name for name, _ in ranked(encoders, **figures)]  # noqa: E731
    figures = {"good": recall(0.3), "fair": recall(0.2)}
    assert names(**figures) == ["drawings", "good", "fair", "newest"], "other data than that of its card"
    assert names(**figures, drawings=recall(0.28)) == ["good", "drawings", "fair", "newest"]
    encoders[0].pinned = True
    assert names(**figures)[0] == "newest"
    assert names(newest=recall(0.005), **figures)[0] == "newest"


def test_throw_away_encoders_come_last_with_a_badge(ranked):
    encoders = [encoder("worse"), encoder("short", steps=3), encoder("plain"), encoder("drawings", 1600, "lcl")]
    found = ranked(encoders, worse=recall(0.01))
    assert found == [("drawings", ""), ("plain", ""), ("worse", WORSE), ("short", HARDLY_TRAINED)]


def test_the_main_figures_are_both_retrievals_and_one_accuracy_of_the_newest_evaluation():
    probe, zero_shot = (recall(0.4, "acc@1", task) for task in ("classification", "zero_shot_classification"))
    rows = [*probe, *recall(0.2, "IR@1"), *recall(0.1), *recall(0.5, "TR@5"), *recall(0.9)]
    titles = {row["title"]: row["value"] for row in main_figures(rows)}
    assert titles == {"text → image": 0.1, "image → text": 0.5, "probe": 0.4}
    assert [row["title"] for row in main_figures([*rows, *zero_shot])][2:] == ["zero-shot"]


def test_one_answer_has_forty_encoders_with_their_figures_at_once(live_service, encoder):
    from sqlalchemy import select

    live_service.evaluated(encoder["id"], [{**recall(0.2)[0], "chance": 0.1}] * 100)
    with live_service.context.database.session() as session:
        row = session.scalars(select(EncoderRow).where(EncoderRow.id == encoder["id"])).one()
        same = {name: getattr(row, name) for name in ("path", "hash", "identity", "owner", "info", "created_at")}
        session.add_all(EncoderRow(id=f"enc_many{n}", name=f"many-{n}", **same) for n in range(40))
    begun = time.perf_counter()
    found = live_service.admin.encoders(order="quality")
    assert time.perf_counter() - begun < 0.25
    assert (len(found) > 40, found[0]["name"], found[0]["figures"][0]["title"]) == (True, "tiny", "text → image")
    assert "figures" not in live_service.admin.encoders()[0]
