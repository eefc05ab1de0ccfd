"""How runs are drawn in each state."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ui.charts import metric_value
from ui.spec_fields import starting_spec
from ui.tabs.run_view import (
    WatchedRun,
    draw_chosen,
    draw_curves,
    draw_details,
    draw_head,
    draw_log,
    draw_question,
    progress_fraction,
)


def test_a_running_run_shows_how_far_it_is(run: dict[str, Any]) -> None:
    drawn = draw_head(run)
    assert "step 50 of 200 · 1 min 15 s left" in drawn
    assert 'aria-valuenow="25"' in drawn
    assert "152 images a second" in drawn


def test_a_queued_run_waits(run: dict[str, Any]) -> None:
    queued = {**run, "state": "queued", "progress": None}
    assert "Waiting for a worker" in draw_head(queued)
    drawn = draw_head({**queued, "obstacle": {"code": "no_resource", "message": "no worker offers <gpu>"}})
    assert "no worker offers &lt;gpu&gt;" in drawn
    assert "Waiting for a worker" not in drawn


def test_an_ended_run_says_what_is_not_in_the_store_yet(run: dict[str, Any]) -> None:
    ended = {**run, "state": "succeeded"}
    assert "has ended" not in draw_head(ended)
    drawn = draw_head({**ended, "artifacts": {"code": "artifacts_pending", "message": "its files are <here>"}})
    assert "The run has ended; its files are &lt;here&gt;." in drawn


def test_a_waiting_run_leads_to_those_before_it(run: dict[str, Any]) -> None:
    drawn = draw_head({**run, "state": "waiting", "progress": None, "after": ["run_a", "run_b"]})
    assert 'Comes after <a href="?run=run_a">run_a</a>, <a href="?run=run_b">run_b</a>.' in drawn


def test_a_paused_run_says_where_it_goes_on(run: dict[str, Any]) -> None:
    drawn = draw_head({**run, "state": "paused"})
    assert "Resume goes on from step 50/200." in drawn
    assert "progressbar" not in drawn


def test_a_run_whose_length_is_unknown_has_a_busy_bar(run: dict[str, Any]) -> None:
    drawn = draw_head({**run, "progress": None})
    assert "lcl-bar--busy" in drawn
    assert "Starting" in drawn


def test_a_failure_names_field_and_reason_once(run: dict[str, Any]) -> None:
    reason = {"code": "bad_spec", "field": "steps", "message": "steps: must be <positive>"}
    drawn = draw_head({**run, "state": "failed", "reason": reason})
    assert "<code>steps</code>" in drawn
    assert "must be &lt;positive&gt;" in drawn
    assert "steps: must" not in drawn


def test_how_long_an_ended_run_took(run: dict[str, Any]) -> None:
    drawn = draw_head({**run, "state": "succeeded", "finished_at": "2026-01-01T10:03:35Z"})
    assert "3 min 30 s" in drawn
    assert progress_fraction({**run, "state": "succeeded"}) == 1.0


def test_held_out_numbers_are_drawn_beside_the_losses(run: dict[str, Any]) -> None:
    lines = [
        {"step": step, "generation_loss": 5 - step / 10, "held_out.generation_loss": 6.0, "held_out.loss": 6.0,
         "held_out.retrieval_r5": step / 100}
        for step in (10, 20)
    ]  # fmt: skip
    page = draw_curves({**run, "kind": "pretrain"}, lines)
    assert page.count("<figure") == 2, "one chart of the loss, one of retrieval"
    assert page.count("lcl-line--held-out") == 1
    assert "of held-out data 6.000 at step 20" in page
    assert "recall at 5" in page
    assert metric_value(lines[0], "loss") == 4, "the sum of the training terms alone"


def test_the_losses_of_any_method_are_drawn(run: dict[str, Any]) -> None:
    lines = [{"step": step, "masked_text_loss": 9 / step, "masked_image_loss": 1.0} for step in (1, 2, 3)]
    drawn = draw_curves(run, lines)
    assert "Masked text loss: 9.000 at step 1, 3.000 at step 3" in drawn
    assert "Masked image loss" in drawn
    assert "Generation" not in drawn
    assert draw_curves(run, []).count("Waiting for the first figures") == 2


@pytest.mark.parametrize(
    ("result", "words", "link"),
    [
        ({"encoder": {"parameters": 6_400_000, "images_seen": 33_000}}, "6.4 M parameters, 33,000 images", "encoder="),
        ({"encoder": {}, "monitor": {"choose": "held_out.retrieval_r5", "best": {"step": 400, "value": 0.3124}}},
         "Best: Held-out retrieval, recall at 5 31.2 % at step 400", "encoder="),
        ({"collection": {"name": "sample", "images": 3835, "texts": 9000}}, "3,835 images, 9,000", "collection="),
        ({"dataset": {"name": "mine", "records": 12, "pictures": 30, "bytes": 2_000}}, "12 records, 30", "dataset="),
    ],
)  # fmt: skip
def test_what_a_run_has_made_is_shown_with_a_link(
    run: dict[str, Any], result: dict[str, Any], words: str, link: str
) -> None:
    ids = {"encoder_id": "enc_1", "collection_id": "col_1"}
    drawn = draw_head({**run, **ids, "state": "succeeded", "result": result})
    assert words in drawn
    assert f'<a href="?{link}' in drawn


def test_an_evaluation_is_bars_thumbnails_and_a_folded_table(run: dict[str, Any]) -> None:
    row = {"task": "retrieval", "metric": "IR@5", "value": 0.2, "chance": 0.01, "untrained": 0.02, "split": "test"}
    names = ("figures/confusion-a.png", "figures/notes.txt", "table.csv")
    files = [{"name": name, "bytes": 10} for name in names]
    ended = {**run, "kind": "evaluate", "state": "succeeded"}
    ended["result"] = {"dataset": "sample", "rows": [row, {**row, "variant": "b"}]}
    assert "Evaluate · " in draw_head(ended)
    drawn = draw_details(ended, WatchedRun(artifacts=tuple(files)))
    assert "chance 1.0 · untrained 2.0" in drawn
    assert "start weights" not in drawn
    start = ({**row, "value": 0.124}, {**row, "value": 0.5}, {**row, "variant": "b", "value": 0.6})  # newest first
    drawn_too = draw_details(ended, WatchedRun(artifacts=tuple(files), start=start))
    assert "untrained 2.0 · start weights 12.4" in drawn_too
    assert 'lcl-bar-start" style="left:12.40%"' in drawn_too
    assert drawn.count('src="artifacts/run_1/figures/confusion-a.png"') == 2, "small, and opened"
    assert drawn.count("popovertarget") == 1
    assert "<summary>All 2 figures</summary>" in drawn
    assert 'href="artifacts/run_1/table.csv" download' in drawn


def test_a_log_is_text() -> None:
    assert "&lt;script&gt;" in draw_log(WatchedRun(log="<script>"))
    assert "empty so far" in draw_log(WatchedRun())


def test_a_validation_shows_its_counts_and_first_problems(run: dict[str, Any]) -> None:
    finding = {"file": "a<b>.jsonl", "line": 7, "id": "x", "reason": "unreadable image", "detail": "no <picture>"}
    report = {"documents": 1200, "images": 3, "distinct_images": 2, "tokens": 5, "length_unit": "tokens"}
    ended = {**run, "result": {"report": {**report, "reasons": {"bad line": 4}, "first": [finding]}}}
    assert "1,200 documents, 3 images (2 different), 5 tokens" in draw_head(ended)
    drawn = draw_details(ended, WatchedRun())
    assert "Problems: bad line 4" in drawn
    assert "<code>a&lt;b&gt;.jsonl:7</code> unreadable image: no &lt;picture&gt;" in drawn
    assert "No problems" in draw_details({**run, "result": {"report": {**report, "reasons": {}}}}, WatchedRun())


def test_a_run_at_work_says_how_many_gpus_it_has(run: dict[str, Any]) -> None:
    assert "· 2 GPUs ·" in draw_head({**run, "devices": ["GPU-a", "GPU-b"]})
    assert "GPU" not in draw_head({**run, "devices": []})


def test_a_stopped_run_keeps_how_far_it_was(run: dict[str, Any]) -> None:
    assert "Stopped at 50/200. Resume goes on from its last checkpoint." in draw_head({**run, "state": "cancelled"})
    assert "Stopped at" not in draw_head({**run, "state": "cancelled", "progress": None})
    assert "It goes on from its last checkpoint, 50/200." in draw_head({**run, "state": "queued"})
    starting = {**run, "attempt": 2, "progress": {"step": 0, "total_steps": 200, "phase": "preparing"}}
    assert "Resuming from its last checkpoint" in draw_head(starting)
    assert "step 0" not in draw_head(starting)
    assert "step 0 of 200" in draw_head({**starting, "attempt": 1})


def test_the_only_value_of_an_ended_run_is_a_point(run: dict[str, Any]) -> None:
    ended = {**run, "state": "succeeded"}
    drawn = draw_curves(ended, [{"step": 30, "contrastive_loss": 4.898}])
    assert "The only value: 4.898 at step 30." in drawn
    assert "Waiting" not in drawn
    assert "recorded no value" in draw_curves(ended, [])
    assert "Waiting" in draw_curves(run, [{"step": 30, "contrastive_loss": 4.898}])


def test_files_of_a_run_are_downloads(run: dict[str, Any]) -> None:
    assert "Files of the run" not in draw_details(run, WatchedRun())
    files = [{"name": "plots/a b&c.svg", "bytes": 2_000_000}, {"name": "x.json", "bytes": 10}]
    drawn = draw_details(run, WatchedRun(artifacts=tuple(files)))
    assert 'href="artifacts/run_1/plots/a%20b%26c.svg" download>plots/a b&amp;c.svg</a>' in drawn
    assert "2 files, 1.91 MiB" in drawn


def test_what_stops_a_run_is_behind_a_menu_and_the_question_is_true(run: dict[str, Any]) -> None:
    drawn = draw_head(run)
    assert drawn.index("<summary") < drawn.index('data-pick="pause:run_1"') < drawn.index('data-pick="cancel:run_1"')
    assert 'data-pick="delete' not in drawn
    paused = draw_head({**run, "state": "paused"})
    assert paused.index('data-pick="resume:run_1"') < paused.index("<summary")
    asked = draw_question("cancel", [run])
    assert "A checkpoint is written first; nothing is lost. Resume goes on from there." in asked
    assert asked.index("Keep running") < asked.index("Cancel run<")


def test_what_differs_from_the_preset_is_named(run: dict[str, Any]) -> None:
    spec = starting_spec("pretrain", "sample")
    changed = {**run, "spec": {**spec, "steps": 240, "optimizer": {**spec["optimizer"], "lr": 0.002}}}
    assert "Differs from the preset sample: " in draw_head(changed)
    assert "lr .002" in draw_head(changed)
    assert "Differs" not in draw_head({**run, "spec": spec})


def test_a_peak_never_falls(run: dict[str, Any]) -> None:
    lines = [{"step": step, "memory_gib": value} for step, value in ((1, 0.5), (2, 0.7), (3, 0.4))]
    drawn = draw_details(run, WatchedRun(), lines)
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", re.findall(r'lcl-line" d="([^"]+)"', drawn)[0])]
    assert heights[1] == heights[2] < heights[0]


def test_two_chosen_pre_trainings_are_compared(run: dict[str, Any]) -> None:
    second, index = {**run, "id": "run_2"}, {**run, "id": "run_3", "kind": "index"}
    assert 'href="?run=run_1&amp;with=run_2">Compare</a>' in draw_chosen([run, second, index])
    assert "Compare" not in draw_chosen([run, index])
    assert draw_chosen([]) == ""
