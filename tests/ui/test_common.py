"""Menus whose values are always among their choices, and scripts that follow an event."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.common import run_after, select_choice, update_dropdown

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


def test_a_script_runs_after_an_event_whether_it_succeeds_or_not() -> None:
    with gr.Blocks() as page:
        run_after(gr.Button().click(lambda: None), "() => 1")
    first, *after = page.fns.values()
    assert [(event.js, event.trigger_after) for event in after] == [("() => 1", first._id)] * 2
    assert {event.trigger_only_on_failure for event in after} == {False, True}
