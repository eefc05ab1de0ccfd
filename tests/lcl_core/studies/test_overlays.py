"""Partial specs laid over each other."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.studies.trials import apply_overlay

BASE = {"steps": 5, "optimizer": {"lr": 1.0, "eps": 2.0}, "data": {"sources": [{"view": "pairs"}, {"view": "x"}]}}


def test_objects_are_joined_and_lists_replaced():
    over = {"optimizer": {"lr": 3.0}, "data": {"sources": [{"view": "interleaved"}]}}
    assert apply_overlay(BASE, over) == {
        "steps": 5,
        "optimizer": {"lr": 3.0, "eps": 2.0},
        "data": {"sources": [{"view": "interleaved"}]},
    }


def test_dotted_keys_reach_into_objects_and_lists():
    over = {"optimizer.lr": 4.0, "data.sources.1.view": "pairs", "model.text.width": 7, "engine": {"a.b": 1}}
    made = apply_overlay(BASE, over)
    assert made["optimizer"] == {"lr": 4.0, "eps": 2.0}
    assert made["data"]["sources"] == [{"view": "pairs"}, {"view": "pairs"}]
    assert (made["model"], made["engine"]) == ({"text": {"width": 7}}, {"a": {"b": 1}})


def test_a_dotted_object_is_joined_too():
    assert apply_overlay(BASE, {"optimizer": {"lr": 9.0}})["optimizer"] == {"lr": 9.0, "eps": 2.0}
    assert apply_overlay(BASE, {"data.sources.0": {"weight": 2}})["data"]["sources"][0] == {
        "view": "pairs",
        "weight": 2,
    }


def test_neither_side_is_changed():
    over = {"data": {"sources": [{"view": "a"}]}}
    made = apply_overlay(BASE, over)
    made["data"]["sources"][0]["view"] = "changed"
    made["optimizer"]["lr"] = "changed"
    assert over == {"data": {"sources": [{"view": "a"}]}}
    assert BASE["optimizer"] == {"lr": 1.0, "eps": 2.0}


@pytest.mark.parametrize(
    ("path", "word"),
    [("data.sources.2.view", "2 items"), ("data.sources.first", "first"), ("steps.x", "no object"), ("a.0.b", "whole")],
)
def test_a_path_that_leads_nowhere_is_named(path, word):
    with pytest.raises(UserError, match=word) as caught:
        apply_overlay(BASE, {path: 1})
    assert caught.value.field == path
