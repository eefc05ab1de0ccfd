"""One format for all numbers; which figures are shown first, and that a bar and its words say the same."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ui.figures import WORSE, draw_figures, draw_table, interval_text, main_figures, metric_text, number

Row = dict[str, Any]


def row(task: str, metric: str, value: float, **more: Any) -> Row:
    return {"task": task, "split": "test", "variant": "a", "metric": metric, "value": value, **more}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (6_412_345, "6.4 M"), (33_120, "33,120"), (151.7, "152"), (1.534, "1.53"), (0.04321, "0.0432"),
     (6e-6, "6·10⁻⁶"), (2e14, "2·10¹⁴"), (-3, "−3"), (0.0, "0"), ("text", "text"), (float("nan"), "–")],
)  # fmt: skip
def test_numbers(value: Any, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("IR@5", 0.349, "34.9 %"), ("acc@1", 0.0001, "< 0.1 %"), ("acc@1", 0, "0.0 %"), ("TR median rank", 282.5, "282"),
     ("generation_loss", 2.8812, "2.881"), ("CIDEr", 0.7, "0.700"), ("lr", 0.002, ".002"), ("lr", 6e-6, "6·10⁻⁶"),
     ("mfu", 0.05151, "5.2 %"), ("images_per_s", 151.7, "152"), ("IR@5", None, "–")],
)  # fmt: skip
def test_a_metric_has_the_format_of_its_name(metric: str, value: float | None, text: str) -> None:
    assert metric_text(metric, value) == text


def test_an_interval_is_written_without_its_unit() -> None:
    assert interval_text(row("retrieval", "IR@5", 0.35, interval=[0.31, 0.39])) == "31.0–39.0"
    assert interval_text(row("retrieval", "IR@5", 0.35, interval=[-0.01, 0.39])) == "−1.0 to 39.0"
    assert interval_text(row("retrieval", "IR@5", 0.35)) == ""


def test_the_first_variant_of_each_task_is_shown_and_never_the_best() -> None:
    rows = [
        row("classification", "acc@1", 0.2), row("classification", "acc@1", 0.9, variant="b"),
        row("zero_shot_classification", "acc@1", 0.1), row("dialogue", "F1", 0.5), row("dialogue", "accuracy", 0.6),
        row("retrieval", "TR@5", 0.3), row("retrieval", "IR@1", 0.1), row("retrieval", "IR@5", 0.4),
        row("retrieval", "IR median rank", 12), row("keywords", "P@8", 0.4), row("keywords", "P@9", 0.5),
    ]  # fmt: skip
    shown = [(each["task"], each["metric"], each["value"]) for each in main_figures(rows)]
    assert shown == [
        ("retrieval", "IR@5", 0.4), ("retrieval", "TR@5", 0.3), ("classification", "acc@1", 0.2),
        ("zero_shot_classification", "acc@1", 0.1), ("dialogue", "accuracy", 0.6), ("keywords", "P@8", 0.4),
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "better"), [(0.3, True), (0.17, False)])
def test_a_figure_is_good_only_if_its_interval_lies_above_untrained_weights(low: float, better: bool) -> None:
    drawn = draw_figures([row("t<", "acc@1", 0.35, interval=[low, 0.4], untrained=0.171, chance=0.02)])
    assert ("lcl-bars__better" in drawn, WORSE in drawn) == (better, not better)
    assert "chance 2.0 · untrained 17.1" in drawn
    assert "T&lt;" in drawn
    places = {name: float(place) for name, place in re.findall(r'lcl-bar-(\w+)" style="left:([\d.]+)', drawn)}
    assert places == {"range": 100 * low, "chance": 2, "untrained": 17.1, "value": 35}


def test_ranks_and_scores_have_no_bar_and_are_in_the_table() -> None:
    rows = [row("retrieval", "IR median rank", 282, chance=295.5), row("captioning", "CIDEr", 1.7)]
    assert "lcl-figure-bar" not in draw_figures(rows)
    table = draw_table(rows)
    assert '<td data-sort="282">282</td>' in table
    assert "e+" not in table
