"""Which class is taken for which, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from lcl_core.evaluation.plots import confusion_matrix, draw_confusion, most_confused_classes


def sample(label: str, answer: str) -> dict[str, Any]:
    return {"label": label, "top": [answer], "rank": 1}


SAMPLES = [sample("a", "a"), sample("a", "b"), sample("b", "c"), sample("b", "c"), sample("c", "z"), sample("d", "d")]


def test_counts_by_hand() -> None:
    assert confusion_matrix(SAMPLES, ["a", "b", "c"]).tolist() == [[1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]


def test_of_many_classes_those_in_the_most_mistakes_are_shown() -> None:
    assert most_confused_classes(SAMPLES) == ["a", "b", "c", "d"]
    assert most_confused_classes(SAMPLES, most=2) == ["b", "c"]  # b in three mistakes, c in three, a in one, d in none


def test_an_image_is_drawn(tmp_path: Path) -> None:
    draw_confusion(SAMPLES, "title", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert min(image.size) > 200


def test_labels_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    """``a $x^$ b`` is no formula that matplotlib can read."""
    draw_confusion([sample("a $x^$ b", "{$}$"), sample("{$}$", "{$}$")], "on $test$", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert min(image.size) > 200
