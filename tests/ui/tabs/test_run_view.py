"""How runs are drawn in each state."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ui.charts import metric_value
from ui.tabs.run_view import (
    draw_artifacts,
    draw_curves,
    draw_head,
    draw_list,
    draw_log,
    draw_result,
    draw_workers,
    progress_fraction,
)


def test_a_running_run_shows_how_far_it_is(run: dict[str, Any]) -> None:
    drawn = draw_head(run)
    assert "step 50 of 200 · 1 min 15 s left" in drawn
    assert 'aria-valuenow="25"' in drawn
    assert "<dd>152</dd>" in drawn


def test_a_queued_run_waits(run: dict[str, Any]) -> None:
    queued = {**run, "state": "queued", "progress": None}
    assert "Waiting for a worker" in draw_head(queued)
    drawn = draw_head({**queued, "obstacle": {"code": "no_resource", "message": "no worker offers <gpu>"}})
    assert "no worker offers &lt;gpu&gt;" in drawn
    assert "Waiting for a worker" not in drawn


def test_an_ended_run_says_what_is_not_in_the_store_yet(run: dict[str, Any]) -> None:
    ended = {**run, "state": "succeeded"}
    assert "lcl-note" not in draw_head(ended)
    drawn = draw_head({**ended, "artifacts": {"code": "artifacts_pending", "message": "its files are <here>"}})
    assert "The run has ended; its files are &lt;here&gt;." in drawn


def test_a_waiting_run_leads_to_those_before_it(run: dict[str, Any]) -> None:
    drawn = draw_head({**run, "state": "waiting", "progress": None, "after": ["run_a", "run_b"]})
    assert 'Comes after <a href="?run=run_a">run_a</a>, <a href="?run=run_b">run_b</a>.' in drawn


def test_a_paused_run_says_where_it_goes_on(run: dict[str, Any]) -> None:
    drawn = draw_head({**run, "state": "paused"})
    assert "Resume lets it go on from where it was: step 50 of 200." in drawn
    assert "progressbar" not in drawn
    assert "from where it was.</p>" in draw_head({**run, "state": "paused", "progress": None})


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


def test_the_list_marks_the_selected_run_and_escapes_names(run: dict[str, Any]) -> None:
    other = {**run, "id": "run_2", "name": "<i>x</i>", "state": "failed"}
    drawn = draw_list([run, other], "run_1")
    assert drawn.count("aria-current") == 1
    assert drawn.index("aria-current") < drawn.index("run_2")
    assert "&lt;i&gt;x" in drawn
    assert "No runs yet" in draw_list([], None)


def test_curves_are_for_pre_training_only(run: dict[str, Any]) -> None:
    lines = [
        {"step": step, "contrastive_loss": contrastive, "generation_loss": generation}
        for step, contrastive, generation in ((10, 0.4, 6.0), (20, 0.3, 5.0))
    ]
    drawn = draw_curves(run, lines)
    assert "Contrastive loss: 0.4 at step 10, 0.3 at step 20" in drawn
    assert "Generation loss: 6 at step 10, 5 at step 20" in drawn
    assert draw_curves({**run, "kind": "index"}, lines) == ""


def test_held_out_numbers_are_drawn_beside_the_losses(run: dict[str, Any]) -> None:
    lines = [
        {"step": step, "generation_loss": 5 - step / 10, "held_out.generation_loss": 6.0, "held_out.loss": 6.0,
         "held_out.retrieval_r5": step / 100}
        for step in (10, 20)
    ]  # fmt: skip
    page = draw_curves({**run, "kind": "pretrain"}, lines)
    assert page.count("<figure") == 2, "one chart of the loss, one of retrieval"
    assert page.count("lcl-line--held-out") == 1
    assert "of held-out data 6 at step 20" in page
    assert "recall at 5" in page
    assert metric_value(lines[0], "loss") == 4, "the sum of the training terms alone"


def test_the_losses_of_any_method_are_drawn(run: dict[str, Any]) -> None:
    lines = [{"step": step, "masked_text_loss": 9 / step, "masked_image_loss": 1.0} for step in (1, 2, 3)]
    drawn = draw_curves(run, lines)
    assert "Masked text loss: 9 at step 1, 3 at step 3" in drawn
    assert "Masked image loss" in drawn
    assert "Generation" not in drawn
    assert draw_curves(run, []).count("Waiting for the first figures") == 2


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"encoder": {"parameters": 6_400_000, "images_seen": 33_000, "seconds": 200, "hash": "ab" * 32}}, "6.4M"),
        ({"encoder": {"steps": 500}, "monitor": {"choose": "held_out.loss", "best": {"step": 400, "value": 0.25}}},
         "0.25 at step 400"),
        ({"collection": {"name": "sample", "images": 3835, "texts": 9000, "dim": 192}}, "3,835"),
        ({"encoder": "enc_1", "rows": [{"task": "retrieval", "metric": "IR@5", "value": 0.171, "split": "test",
          "variant": "captions[0]", "chance": 0.0085, "untrained": 0.01, "interval": [0.14, 0.2]}]}, "0.14 – 0.2"),
    ],
)  # fmt: skip
def test_results_are_shown(run: dict[str, Any], result: dict[str, Any], words: str) -> None:
    assert words in draw_result({**run, "state": "succeeded", "result": result})


def test_baselines_stand_beside_the_value(run: dict[str, Any]) -> None:
    row = {"task": "retrieval", "metric": "IR@5", "value": 0.2, "chance": 0.01, "untrained": 0.02, "split": "test"}
    drawn = draw_result({**run, "state": "succeeded", "result": {"rows": [row]}})
    heads = re.findall(r'<th scope="col">([^<]+)', drawn)
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", drawn)]
    assert heads[:5] == ["Task", "Metric", "Value (95 %)", "Chance", "Untrained"]
    assert cells[:6] == ["retrieval", "IR@5", "0.2", "0.01", "0.02", "test"]


def test_without_a_result_there_is_none(run: dict[str, Any]) -> None:
    assert draw_result(run) == ""


def test_a_log_is_text() -> None:
    assert "&lt;script&gt;" in draw_log("<script>")
    assert "empty so far" in draw_log("")


def test_an_examination_shows_its_counts_and_first_problems(run: dict[str, Any]) -> None:
    finding = {"file": "a<b>.jsonl", "line": 7, "id": "x", "reason": "unreadable image", "detail": "no <picture>"}
    report = {"documents": 1200, "images": 3, "distinct_images": 2, "tokens": 5, "length_unit": "tokens"}
    drawn = draw_result({**run, "result": {"report": {**report, "reasons": {"bad line": 4}, "first": [finding]}}})
    assert "1,200" in drawn
    assert "Bad line" in drawn
    assert "<code>a&lt;b&gt;.jsonl:7</code> unreadable image: no &lt;picture&gt;" in drawn
    clean = draw_result({**run, "result": {"report": {**report, "reasons": {}, "first": []}}})
    assert "Problems" not in clean


def test_a_converted_dataset_is_shown(run: dict[str, Any]) -> None:
    made = {"name": "mine", "records": 12, "pictures": 30, "shards": 2, "bytes": 2_500_000, "content_hash": "c" * 64}
    drawn = draw_result({**run, "result": {"dataset": made}})
    assert "mine" in drawn
    assert "2.5" in drawn


def test_workers_show_which_run_has_which_device() -> None:
    memory = {"memory_used": 2**30, "memory_total": 2**34}
    worker = {"id": "w-<1>", "seen_at": "2026-01-01T00:00:00Z", "devices": ["cpu (2 cores)"], "current_run": None}
    gpus = [
        {"id": "GPU-a", "name": "NVIDIA L4", "use": "run", "run": "run_a", **memory},
        {"id": "GPU-b", "name": "NVIDIA L4", "use": "inference", "run": None, **memory},
        {"id": "MIG-c", "name": "MIG 1g", "use": "free", "run": None, "memory_used": None, "memory_total": None},
    ]
    drawn = draw_workers([{**worker, "gpus": gpus}, {**worker, "id": "w-2", "gpus": [], "current_run": "run_c"}])
    assert "w-&lt;1&gt;" in drawn
    assert '<td><a href="?run=run_a">run_a</a></td><td>1 GiB of 16 GiB</td>' in drawn
    assert "<td>NVIDIA L4 · GPU-b</td><td>inference</td>" in drawn
    assert "<td>MIG 1g · MIG-c</td><td>free</td><td></td>" in drawn
    assert '<td>cpu (2 cores)</td><td><a href="?run=run_c">run_c</a></td>' in drawn
    assert "No worker is alive" in draw_workers([])


def test_a_run_at_work_says_how_many_gpus_it_has(run: dict[str, Any]) -> None:
    assert "· 2 GPUs ·" in draw_head({**run, "devices": ["GPU-a", "GPU-b"]})
    assert "GPU" not in draw_head({**run, "devices": []})


def test_a_row_of_the_list_has_a_subject(run: dict[str, Any]) -> None:
    unnamed = {**run, "name": None, "kind": "index"}
    drawn = draw_list([{**unnamed, "spec": {"encoder": "tiny", "dataset": "sample", "collection": "mine"}}], None)
    assert "<b>tiny → mine</b>" in drawn
    assert "<b>tiny on sample</b>" in draw_list([{**unnamed, "spec": {"encoder": "tiny", "dataset": "sample"}}], None)
    named = draw_list([{**run, "spec": {"preset": "sample", "data": {"dataset": "books"}}}], None)
    assert "<b>first</b><small>Pre-train · sample on books · " in named


def test_a_stopped_run_keeps_how_far_it_was(run: dict[str, Any]) -> None:
    assert "Stopped at 50/200. Resume goes on from its last checkpoint." in draw_head({**run, "state": "cancelled"})
    assert "Stopped at" not in draw_head({**run, "state": "cancelled", "progress": None})
    assert "it stopped at 50/200 and goes on" in draw_head({**run, "state": "queued"})
    starting = {**run, "attempt": 2, "progress": {"step": 0, "total_steps": 200, "phase": "preparing"}}
    assert "Resuming from its last checkpoint" in draw_head(starting)
    assert "step 0" not in draw_head(starting)
    assert "step 0 of 200" in draw_head({**starting, "attempt": 1})


def test_the_only_value_of_an_ended_run_is_a_point(run: dict[str, Any]) -> None:
    ended = {**run, "state": "succeeded"}
    drawn = draw_curves(ended, [{"step": 30, "contrastive_loss": 4.898}])
    assert "4.898 at step 30, the only value" in drawn
    assert "Waiting" not in drawn
    assert "recorded no value" in draw_curves(ended, [])
    assert "Waiting" in draw_curves(run, [{"step": 30, "contrastive_loss": 4.898}])


def test_files_of_a_run_are_downloads() -> None:
    assert draw_artifacts("run_1", []) == ""
    drawn = draw_artifacts("run_1", [{"name": "plots/a b&c.svg", "bytes": 2_000_000}, {"name": "x.json", "bytes": 10}])
    assert 'href="artifacts/run_1/plots/a%20b%26c.svg" download>plots/a b&amp;c.svg</a>' in drawn
    assert "2 files, 1.91 MiB" in drawn
    assert "1 file, 10 bytes" in draw_artifacts("run_1", [{"name": "x.json", "bytes": 10}])
