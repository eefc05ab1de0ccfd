"""Words, times and figures for people; and nothing of a corpus becomes markup."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest

from ui.html import (
    ago,
    badge,
    definition_list,
    duration,
    empty_state,
    error_box,
    item_url,
    parse_time,
    pick_form,
    progress_bar,
    question_box,
)

NASTY = "<img src=x onerror='alert(1)'>\"&"
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "draw", [badge, error_box, lambda text: empty_state(text, text), lambda text: definition_list([("a", text)])]
)
def test_text_never_becomes_markup(draw: Any) -> None:
    assert "<img" not in draw(NASTY)
    assert "&lt;img" in draw(NASTY)


def test_a_question_is_announced_with_what_it_costs() -> None:
    drawn = question_box("Delete <it>?", "Its files are removed.", ("delete:1", "Delete"), ("keep:", "Keep it"))
    assert 'role="alertdialog" aria-label="Delete &lt;it&gt;? Its files are removed."' in drawn


def test_a_form_carries_its_verb_and_values() -> None:
    drawn = pick_form('tag:"x"', "lcl-tag", "<input>", items=["<a>", 'b"'])
    verb, values = (unescape(part) for part in re.findall('data-(?:submit|values)="(.*?)"', drawn))
    assert (verb, json.loads(values)) == ('tag:"x"', {"items": ["<a>", 'b"']})
    assert "<a>" not in drawn


def test_an_address_keeps_to_its_place() -> None:
    assert item_url("col_1", "../../etc/passwd?x#y") == "media/col_1/..%2F..%2Fetc%2Fpasswd%3Fx%23y"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0, "0 s"), (59.4, "59 s"), (95, "1 min 35 s"), (120, "2 min"), (900, "15 min"), (3720, "1 h 2 min"),
     (200_000, "2 days"), (-3, "0 s")],
)  # fmt: skip
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("iso", "words"),
    [(None, ""), ("2026-01-02T11:59:30Z", "just now"), ("2026-01-02T11:48:00+00:00", "12 min ago"),
     ("2026-01-02T09:00:00", "3 h ago"), ("2025-12-30T12:00:00Z", "3 days ago")],
)  # fmt: skip
def test_ages(iso: str | None, words: str) -> None:
    assert ago(iso, NOW) == words


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse_time("2026-01-02T12:00:00") == NOW


def test_a_bar_stays_between_nothing_and_all() -> None:
    assert 'aria-valuenow="100"' in progress_bar(1.7, "x")
    assert 'aria-valuenow="0"' in progress_bar(-1, "x")
    assert "aria-valuenow" not in progress_bar(None, "x")
