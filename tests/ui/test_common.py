"""Menus whose values are always among their choices."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.common import select_choice, update_dropdown

CHOICES = [("One", "1"), ("Two", "2")]


def test_a_menu_writes_its_value_only_where_it_changes() -> None:
    assert "value" not in update_dropdown(CHOICES, "2")
    assert update_dropdown(CHOICES, "2", "1")["value"] == "1"
    assert update_dropdown(CHOICES, "gone")["value"] == "1"


@pytest.mark.parametrize("current", ["gone", None])
def test_a_menu_without_choices_is_emptied_whatever_its_value_is_said_to_be(current: str | None) -> None:
    update = update_dropdown([], current)
    assert (update["choices"], update["value"], update["interactive"]) == ([], None, False)


def test_a_value_comes_with_the_choices_that_offer_it() -> None:
    def away() -> Any:
        raise ApiError(0, "unreachable", "no answer")

    update = select_choice(lambda: CHOICES, "1", "2")
    assert (update["choices"], update["value"]) == (CHOICES, "2")
    assert select_choice(lambda: CHOICES, "1", "gone") == gr.skip()
    assert select_choice(away, "1", "2") == gr.skip()
    assert select_choice(away, "1", "1") == gr.skip()
