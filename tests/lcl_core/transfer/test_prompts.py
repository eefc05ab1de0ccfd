"""Templates and class names: own, given, and those that open_clip holds."""

from __future__ import annotations

import pytest

from lcl_core.errors import UserError
from lcl_core.transfer.prompts import PLAIN, templates_of, words_for

SYNSETS = [f"n{number:08d}" for number in range(1000)]


def test_plain_templates_have_a_place_for_the_class() -> None:
    assert templates_of("plain") == PLAIN
    assert all(template.count("{}") == 1 for template in PLAIN)


def test_labels_are_read_as_words() -> None:
    labels = ["animal-bug", "sky_and  weather", "-"]
    assert words_for(labels, "labels", {}, field="x") == ("animal bug", "sky and  weather", "-")


def test_given_names_come_first() -> None:
    assert words_for(["b-c", "a"], "labels", {"a": "ant", "z": "zoo"}, field="x") == ("b c", "ant")


def test_imagenet_s_templates_and_names_come_from_open_clip() -> None:
    pytest.importorskip("open_clip")
    templates = templates_of("imagenet")
    assert len(templates) == 80
    assert all("{}" in template for template in templates)
    names = words_for(SYNSETS, "imagenet", {SYNSETS[1]: "gold"}, field="x")
    assert (len(names), *names[:2], names[999]) == (1000, "tench", "gold", "toilet paper")


@pytest.mark.parametrize("labels", [["cat", "dog"], [*SYNSETS[:999], "cat"]])
def test_imagenet_s_names_are_for_its_synsets_alone(labels: list[str]) -> None:
    with pytest.raises(UserError, match="thousand synsets") as caught:
        words_for(labels, "imagenet", {}, field="x")
    assert caught.value.code == "class_unnamed"


def test_without_open_clip_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip.zero_shot_metadata", None)
    with pytest.raises(UserError, match=r"open_clip.*lcl\[interop\]") as caught:
        templates_of("imagenet")
    assert caught.value.code == "missing_extra"
