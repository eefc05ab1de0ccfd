"""Few-shot classification as a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.evaluation.evaluate import evaluate

NewRun = Callable[..., RunDir]
SPEC = {"labels": ["colour"], "shots": [1, 4], "draws": 3, "steps": 12, "batch_size": 8, "lr": 5e-3}


def run(new_run: NewRun, name: str = "run", **more: Any) -> tuple[RunDir, dict[str, Any]]:
    run_dir = new_run(name, tasks=["few_shot"], few_shot={**SPEC, **more}, untrained_baseline=False)
    return run_dir, evaluate(run_dir)


def test_each_number_is_a_mean_over_draws_with_their_spread(new_run: NewRun) -> None:
    run_dir, result = run(new_run)
    rows = {(row["variant"], row["metric"]): row for row in result["rows"]}
    assert [key for key in rows if key[1] == "acc@1"] == [("colour, 1 shot", "acc@1"), ("colour, 4 shots", "acc@1")]
    for shots, variant in ((1, "1_shot"), (4, "4_shots")):
        file = run_dir.artifacts / "records" / f"few_shot-test-colour_{variant}-image_to_class-frozen-trained.jsonl"
        ranks = np.array([json.loads(line)["ranks"] for line in file.open()])
        assert ranks.shape == (10, 3)
        by_draw = (ranks == 1).mean(axis=0)
        row = rows[f"colour, {shots} shot{'s' if shots > 1 else ''}", "acc@1"]
        assert row["value"] == pytest.approx(by_draw.mean())
        assert row["spread"] == pytest.approx(by_draw.std(ddof=1))
        assert row["count"] == 10
    assert rows["colour, 4 shots", "acc@1"]["value"] > 0.6


def test_more_draws_leave_the_earlier_ones_as_they_are(new_run: NewRun) -> None:
    few, _ = run(new_run, "a", draws=2)
    more, _ = run(new_run, "b")
    for file in sorted((few.artifacts / "records").glob("*.jsonl")):
        first = [json.loads(line)["ranks"] for line in file.open()]
        second = [json.loads(line)["ranks"][:2] for line in (more.artifacts / "records" / file.name).open()]
        assert first == second


def test_a_choice_is_made_once_a_number_of_shots_on_images_that_never_teach(new_run: NewRun) -> None:
    run_dir, _ = run(new_run, search={"lr": [1e-6, 1e-2]})
    entries = json.loads((run_dir.artifacts / "choice.json").read_text())
    assert [(entry["variant"], entry["chosen"]["lr"]) for entry in entries] == [
        ("colour, 1 shot", 1e-2),
        ("colour, 4 shots", 1e-2),
    ]
