"""Addresses: which tab they belong to, and what they leave out."""

from __future__ import annotations

from typing import Any

import pytest

from ui.addresses import OPTION_PARAMETERS, TAB_OF_PARAMETER, address, linked_tab, mark_view, read_address


def request(**parameters: str) -> Any:
    return type("Request", (), {"query_params": parameters})()


@pytest.mark.parametrize(
    ("parameters", "tab"),
    [
        ({}, "search"),
        ({"q": "ant"}, "search"),
        ({"run": "run_1"}, "runs"),
        ({"tab": "runs", "study": "study_1"}, "runs"),
        ({"tab": "map", "collection": "col_1"}, "map"),
        ({"collection": "col_1", "encoder": "enc_1"}, "encoders"),
        ({"encoder": "enc_1", "classes": "fox"}, "try"),
    ],
)
def test_an_address_belongs_to_one_tab(parameters: dict[str, str], tab: str) -> None:
    assert linked_tab(parameters) == tab
    assert read_address(request(**parameters), tab) == parameters
    assert read_address(request(**parameters), "service") == {}
    assert read_address(None, tab) == {}


def test_a_view_has_only_parameters_that_are_filled_and_cannot_break_out() -> None:
    drawn = mark_view("<b>x</b>", '"><script>', q='a "b" <i>', where=None, k="")
    assert "<script>" not in drawn
    assert "<i>" not in drawn
    assert "where" not in drawn
    assert "<b>x</b>" in drawn


def test_a_parameter_that_is_too_long_is_left_out_by_its_encoded_length() -> None:
    drawn = mark_view("", q="ä" * 501, where="a" * 3000, like="\ud800")
    assert "&quot;q&quot;" not in drawn, "each letter is six characters"
    assert "&quot;where&quot;" in drawn
    assert "&quot;like&quot;" in drawn


def test_a_link_is_quoted() -> None:
    assert address(q="x&y z", item=None) == "?q=x%26y%20z"


def test_no_parameter_is_one_that_gradio_reads_itself() -> None:
    assert not {"page", "view", "deep_link", "__theme"} & {*TAB_OF_PARAMETER, *OPTION_PARAMETERS}
