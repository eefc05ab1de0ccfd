"""How a study is drawn in each state."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ui.tabs.study_view import draw_links, draw_notes, draw_study_head, draw_table

Json = dict[str, Any]


def figure(mean: float, sd: float | None = 0.01) -> Json:
    interval = None if sd is None else (mean - 0.02, mean + 0.02)
    return {"mean": mean, "sd": sd, "interval": interval, "count": 1 if sd is None else 3}


def run(run_id: str, state: str, **more: Any) -> Json:
    return {"id": run_id, "state": state, "progress": None, "reason": None, **more}


@pytest.fixture
def study() -> Json:
    """Two rows: one has its figures, of the other a run is at work and one has failed."""
    compute = {"seconds": 10.0, "images_seen": 64_000.0, "tokens_seen": None, "flops": None, "parameters": None}
    rows = [
        {"labels": {"loss": "both"}, "parameters": {}, "cells": [0], "states": {"succeeded": 1},
         "figures": {"IR@5": figure(0.2)}, "compute": compute},
        {"labels": {"loss": "<b>gen</b>"}, "parameters": {}, "cells": [1, 2],
         "states": {"running": 1, "failed": 1}, "figures": {"IR@5": figure(0.1, None)}, "compute": compute},
    ]  # fmt: skip
    comparison = {"row": 1, "difference": -0.1, "p": 0.0001, "p_holm": 0.0002, "count": 3}
    return {
        "id": "study_1",
        "name": "losses",
        "owner": "ada",
        "state": "running",
        "question": "What <does> it do?",
        "counts": {"running": 1, "succeeded": 1, "failed": 1},
        "created_at": "2026-01-01T10:00:00Z",
        "cells": [
            {"number": 0, "labels": {"loss": "both"}, "seed": 0, "state": "succeeded",
             "run": run("run_1", "succeeded"), "evaluation": run("run_2", "succeeded")},
            {"number": 1, "labels": {"loss": "gen"}, "seed": 0, "state": "running", "evaluation": None,
             "run": run("run_3", "running", progress={"step": 50, "total_steps": 200})},
            {"number": 2, "labels": {"loss": "gen"}, "seed": 1, "state": "failed", "evaluation": None,
             "run": run("run_4", "failed", reason={"message": "no <memory>"})},
        ],
        "notes": ["Of 5 settings drawn 4 differ."],
        "table": {
            "axes": ["loss"], "parameters": [], "metrics": [{"name": "IR@5", "better": "higher"}], "rows": rows,
            "baseline": 0, "baselines": {"IR@5": 0}, "comparisons": {"IR@5": [comparison]},
        },
    }  # fmt: skip


def words(drawn: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", drawn).split())


def test_the_head_says_what_is_asked_and_how_far_it_is(study: Json) -> None:
    drawn = draw_study_head(study)
    assert "What &lt;does&gt; it do?" in drawn
    assert "1 running · 1 succeeded · 1 failed" in drawn
    assert 'aria-valuenow="33"' in drawn


def test_the_table_shows_figures_their_spread_and_the_baseline(study: Json) -> None:
    drawn = draw_table(study, "IR@5")
    text = words(drawn)
    assert "both 64,000 20.0 % ± 1.0 % 18.0 % to 22.0 % baseline" in text
    assert "&lt;b&gt;gen&lt;/b&gt; 64,000 10.0 % one seed −10.0 % p &lt; .001" in text
    assert "IR@5 against both" in text
    assert "<b>20.0 %</b>" in drawn, "the best stands out"
    assert 'aria-label="1 running, 1 failed"' in drawn
    assert drawn.count("lcl-cell--") == 3


def test_lower_may_be_better(study: Json) -> None:
    study["table"]["metrics"][0]["better"] = "lower"
    assert "<b>10.0 %</b>" in draw_table(study, "IR@5")


def test_a_table_without_figures_waits(study: Json) -> None:
    for row in study["table"]["rows"]:
        row["figures"] = {}
        row["compute"]["images_seen"] = None
    study["table"]["comparisons"] = {"IR@5": []}
    drawn = draw_table(study, "IR@5")
    assert drawn.count('aria-label="not yet"') == 3
    assert "<b>" not in drawn


def test_failures_and_notes_are_reported(study: Json) -> None:
    drawn = draw_notes(study)
    assert "no &lt;memory&gt;" in drawn
    assert 'href="?run=run_4"' in drawn
    assert "Of 5 settings drawn 4 differ." in drawn
    study["cells"].pop()
    assert "lcl-problem" not in draw_notes(study)


def test_files_are_offered(study: Json) -> None:
    drawn = draw_links(study)
    assert 'href="study/study_1/table.csv"' in drawn
