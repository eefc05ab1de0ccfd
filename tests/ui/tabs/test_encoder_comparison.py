"""Two encoders side by side, against a service that answers from memory."""

from __future__ import annotations

from typing import Any

import pytest

from api.client import ApiError
from ui.tabs.encoder_comparison import draw_comparison, draw_figures

OLD, NEW = ({"id": f"enc_{name}", "name": name, "hash": name[0] * 64} for name in ("old", "new"))
COLLECTIONS = [
    {"id": f"col_{each['name']}", "name": each["name"], "encoder_id": each["id"], "dataset": "sample"}
    for each in (NEW, OLD)
]
QUESTION = {"task": "retrieval", "split": "val", "variant": "v", "transfer": "zero_shot"}


def hits(*names: str) -> dict[str, Any]:
    return {"hits": [{"id": name, "score": 0.5, "caption": name} for name in names], "took_ms": 1}


@pytest.fixture
def answers() -> dict[str, Any]:
    found = {"col_old": hits("a", "b", "c"), "col_new": hits("c", "d", "b")}
    search = lambda collection, **_: found[collection]  # noqa: E731
    compared = {"left": OLD, "right": NEW, "rows": []}
    return {"compare_encoders": compared, "encoder_figures": [], "collections": COLLECTIONS, "search": search}


def test_what_both_find_is_marked_with_its_rank_on_the_other_side(service: Any, answers: dict[str, Any]) -> None:
    client = service(**answers)
    drawn = draw_comparison(client, OLD, NEW, {"q": "ant"})
    assert client.arguments_of("search") == [{"k": 12, "text": "ant"}] * 2
    assert "<b>2 of 3</b> found by both for “ant”" in drawn
    assert drawn.count("lcl-card--both") == 4
    left, right = drawn.split('<section aria-label="new">')
    assert 'aria-label="c, place 3, place 1 of new. Search with both' in left
    assert 'aria-label="b, place 3, place 2 of old. Search with both' in right
    assert 'aria-label="a, place 1. Search with both' in left
    draw_comparison(client, OLD, NEW, {"item": "i1"})
    assert client.arguments_of("search")[2:] == [{"k": 12, "item": "i1"}] * 2


def test_one_side_that_is_refused_does_not_take_the_other_along(service: Any, answers: dict[str, Any]) -> None:
    def search(collection: str, **_: Any) -> Any:
        if collection == "col_old":
            raise ApiError(409, "encoder_gone", "the encoder is gone")
        return hits("d")

    drawn = draw_comparison(service(**{**answers, "search": search}), OLD, NEW, {"q": "x"})
    assert "the encoder is gone" in drawn
    assert "1. d" in drawn
    assert "0 of 1" in drawn


def test_what_is_missing_is_said_with_the_way_to_it(service: Any, answers: dict[str, Any], away: Exception) -> None:
    drawn = draw_comparison(service(**{**answers, "collections": COLLECTIONS[:1]}), OLD, NEW, {"q": "x"})
    assert "lcl submit index --set encoder=enc_old --set dataset=sample --set collection=sample-old" in drawn
    assert "encoder=enc_new --set" not in drawn
    client = service(**answers)
    drawn = draw_comparison(client, OLD, NEW, {})
    assert '<a href="?tab=runs&amp;new=evaluate&amp;on=enc_new">Evaluate new</a>' in drawn
    assert client.arguments_of("search") == [], "nobody asked"
    drawn = draw_comparison(service(**answers | {"compare_encoders": away, "collections": away}), OLD, NEW, {"q": "x"})
    assert drawn.count("no answer from") == 2


def test_figures_come_with_their_intervals_and_the_better_one_is_bold_where_that_is_clear() -> None:
    def row(metric: str, left: float, right: float, interval: tuple[float, float] | None, p: float | None) -> Any:
        facts = {"left": left, "right": right, "difference": right - left, "interval": interval, "p": p}
        return {**QUESTION, "metric": metric, "chance": 0.01, "left_run": "r1", "right_run": "r2", **facts}

    rows = [
        row("IR@5", 0.2, 0.3, (0.05, 0.15), 0.0004),
        row("IR@1", 0.1, 0.11, (-0.02, 0.04), 0.4),
        row("IR median rank", 20, 30, (5, 15), 0.01),
        row("acc@1", 0.5, 0.6, None, None),
    ]
    own = [[{**QUESTION, "metric": "IR@5", "run_id": run, "interval": (0.1, 0.4)}] for run in ("r1", "other")]
    drawn = draw_figures([OLD, NEW], rows, own)
    body = {line.split("</th>")[0]: line for line in drawn.split('<th scope="row">')[1:]}
    assert "<td>20.0 %<small>10.0–40.0</small></td><td><b>30.0 %</b></td>" in body["IR@5"]
    assert "+10.0 %<small>5.0–15.0</small>" in body["IR@5"]
    assert "&lt; .001" in body["IR@5"]
    assert "<b>" not in body["IR@1"]
    assert "−2.0 to 4.0" in body["IR@1"]
    assert "<td><b>20</b></td><td>30</td>" in body["IR median rank"], "a low rank is a good one"
    assert "<b>" not in body["acc@1"]
    assert "Not evaluated on the same data" in draw_figures([OLD, NEW], [], own)


def test_a_figure_without_a_difference_has_the_reason() -> None:
    facts = {"left": 0.2, "right": 0.3, "difference": None, "reason": "evaluated with different settings: <source>"}
    drawn = draw_figures(
        [OLD, NEW], [{**QUESTION, "metric": "IR@5", "left_run": "r1", "right_run": "r2", **facts}], [[], []]
    )
    assert "<td>–<small>evaluated with different settings: &lt;source&gt;</small></td>" in drawn
    assert "<b>" not in drawn
