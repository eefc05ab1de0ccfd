"""Templates and class names: own, given, and those that open_clip holds."""

from __future__ import annotations

import pytest
from timm.data import ImageNetInfo

from lcl_core.common.errors import UserError
from lcl_core.evaluation.tasks.zero_shot import class_names, prompt_templates
from lcl_core.specs.zero_shot import PLAIN_TEMPLATES

SYNSETS = ImageNetInfo("imagenet-1k").label_names()


def test_plain_templates_have_a_place_for_the_class() -> None:
    assert prompt_templates("plain") == PLAIN_TEMPLATES
    assert all(template.count("{}") == 1 for template in PLAIN_TEMPLATES)


def test_labels_are_read_as_words() -> None:
    labels = ["animal-bug", "sky_and  weather", "-"]
    assert class_names(labels, "labels", {}, field="x") == ("animal bug", "sky and  weather", "-")


def test_labels_may_be_used_as_they_are_written() -> None:
    """Names of CLIP benchmark's classnames.txt."""
    labels = ["737-200", "MD-11", "T-shirt", "jack-o'-lantern", "a_b"]
    assert class_names(labels, "as_written", {"a_b": "x"}, field="x") == (*labels[:4], "x")


def test_given_names_come_first() -> None:
    assert class_names(["b-c", "a"], "labels", {"a": "ant", "z": "zoo"}, field="x") == ("b c", "ant")


def test_imagenet_s_templates_and_names_come_from_open_clip() -> None:
    pytest.importorskip("open_clip")
    templates = prompt_templates("imagenet")
    assert len(templates) == 80
    assert all("{}" in template for template in templates)
    names = class_names(SYNSETS, "imagenet", {SYNSETS[1]: "gold"}, field="x")
    assert (len(names), *names[:2], names[999]) == (1000, "tench", "gold", "toilet paper")


def test_a_part_of_imagenet_s_synsets_has_names() -> None:
    """ImageNet-R and -A have 200 of them; a class that is none is named by the evaluation."""
    pytest.importorskip("open_clip")
    assert class_names([SYNSETS[999], SYNSETS[0]], "imagenet", {}, field="x") == ("toilet paper", "tench")
    assert class_names(["cat", SYNSETS[1]], "imagenet", {"cat": "a cat"}, field="x") == ("a cat", "goldfish")


def test_names_of_all_classes_need_no_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip.zero_shot_metadata", None)
    assert class_names(["b", "a"], "imagenet", {"a": "ant", "b": "bee"}, field="x") == ("bee", "ant")


@pytest.mark.parametrize("labels", [["cat", "dog"], [*SYNSETS[:999], "cat"]])
def test_imagenet_s_names_are_for_its_synsets_alone(labels: list[str]) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(UserError, match="thousand synsets") as caught:
        class_names(labels, "imagenet", {}, field="x")
    assert caught.value.code == "class_unnamed"


def test_without_open_clip_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip.zero_shot_metadata", None)
    with pytest.raises(UserError, match=r"open_clip.*lcl\[interop\]") as caught:
        prompt_templates("imagenet")
    assert caught.value.code == "missing_extra"
