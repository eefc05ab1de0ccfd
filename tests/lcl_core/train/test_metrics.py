"""Numbers for people: means over the steps and ranks of an interval, whatever interrupts it."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from lcl_core.data.sampling.loader import Cursor, DocumentBatch
from lcl_core.data.sampling.sources import Sample
from lcl_core.objectives.base import MeanMetric
from lcl_core.train.distributed import RankGroup
from lcl_core.train.metrics import MetricsAggregator, NonFiniteLoss, TrainingProgress, log_line, read_counts
from lcl_core.train.train_step import StepReport


class TwoRanks(RankGroup):
    """This rank and another, whose answers are given."""

    def __init__(self, *answers):
        self.rank, self.size, self._group = 0, 2, None
        self._answers = list(answers)

    def all_gather_object(self, value):
        return [value, self._answers.pop(0)]


def report(contrastive, generation, correct=0, pairs=4, norm=1, finite=1):
    losses = {"contrastive": torch.tensor(contrastive), "generation": torch.tensor(generation)}
    right, all_pairs, length, taken = (torch.tensor(float(number)) for number in (correct, pairs, norm, finite))
    return StepReport(losses, {"in_batch_accuracy": MeanMetric(right, all_pairs)}, length, taken)


def batch(*names):
    """Documents of three tokens and an image each."""
    levels = np.zeros((1, 3, 2, 2), np.uint8)
    samples = [Sample(name, 0, np.arange(3, dtype=np.int32), levels, (0,)) for name in names]
    return DocumentBatch(samples, Cursor(len(samples)))


def aggregator(progress, ranks=None):
    return MetricsAggregator(progress, 10, ranks or RankGroup(), 1e9, torch.device("cpu"))


def add(meter, reports):
    for one in reports:
        step = meter.progress.step + 1
        meter.add(one, [batch(f"a/{step}"), batch(f"b/{step}")], flops=100.0, waited=0.0)


def test_a_line_holds_means_over_its_steps():
    progress = TrainingProgress(images_seen=8, skipped={"long": 2, "torn": 1})
    meter = aggregator(progress)
    add(meter, [report(2.0, 4.0, correct=1, norm=3.0), report(1.0, 3.0, correct=4, norm=5.0)])
    line = meter.line(lr=0.25)
    assert (line["step"], line["total_steps"], line["images_seen"], line["skipped"]) == (2, 10, 12, 3)
    assert (line["contrastive_loss"], line["generation_loss"], line["loss"]) == (1.5, 3.5, 5.0)
    assert line["in_batch_accuracy"] == pytest.approx((1 / 4 + 4 / 4) / 2)
    assert (line["grad_norm"], line["lr"]) == (4.0, 0.25)
    assert all(
        line[name] > 0 for name in ("images_per_s", "tokens_per_s", "mfu", "memory_gib", "seconds_left", "rss_gib")
    )
    assert line["cpu_cores"] >= 0
    assert line["tokens_per_s"] == pytest.approx(3 * line["images_per_s"], rel=1e-3)


def test_shares_of_ranks_add_up():
    """Losses, and totals and counts of metrics, are shares of the whole; the norm is the same everywhere."""
    others_rows, others_counts = [[0.5, 2.0, 1.0, 2.0, 3.0, 1.0]], read_counts([batch("c")] * 10, 300.0)
    progress = TrainingProgress()
    meter = aggregator(progress, TwoRanks([others_rows, [others_counts]], 1e6))
    add(meter, [report(1.5, 1.0, correct=2, pairs=2, norm=3.0)])
    line = meter.line()
    assert (line["contrastive_loss"], line["generation_loss"], line["grad_norm"]) == (2.0, 3.0, 3.0)
    assert line["in_batch_accuracy"] == 3 / 4
    assert (progress.documents_seen, progress.images_seen, progress.tokens_seen, progress.flops) == (12, 12, 36, 400)
    assert line["tokens_per_s"] == pytest.approx(3 * line["images_per_s"], rel=1e-3)
    assert line["memory_gib"] == 1e6


def test_a_checkpoint_carries_the_steps_since_the_last_line():
    reports = [report(2.0, 4.0, correct=1), report(1.0, 3.0), report(0.1, 0.7, correct=3, norm=0.3)]
    whole = aggregator(TrainingProgress())
    add(whole, reports)
    expected = whole.line()
    saved = TrainingProgress()
    before = aggregator(saved)
    add(before, reports[:2])
    before.flush()
    assert len(saved.pending) == 2
    after = aggregator(TrainingProgress(**json.loads(json.dumps(asdict(saved)))))
    add(after, reports[2:])
    line = after.line()
    for name in (
        "step",
        "images_seen",
        "loss",
        "contrastive_loss",
        "generation_loss",
        "in_batch_accuracy",
        "grad_norm",
    ):
        assert line[name] == expected[name], name


def test_a_step_that_was_no_number_is_told_with_its_documents():
    progress = TrainingProgress()
    meter, nan = aggregator(progress), float("nan")
    add(meter, [report(2.0, 4.0), report(nan, 3.0, norm=nan, finite=0), report(nan, nan, norm=nan, finite=0)])
    with pytest.raises(NonFiniteLoss, match="at step 2") as caught:
        meter.flush()
    assert (caught.value.code, caught.value.field) == ("diverged", "optimizer.lr")
    assert caught.value.details == {
        "step": 2,
        "losses": {"contrastive": "nan", "generation": 3.0},
        "grad_norm": "nan",
        "documents": ["a/2", "b/2"],
    }
    json.dumps(caught.value.details, allow_nan=False)
    assert len(progress.pending) == 1


def test_a_checkpoint_holds_the_training_time_and_the_next_line_its_whole_interval(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("lcl_core.train.metrics.time.monotonic", lambda: now[-1])
    progress = TrainingProgress(seconds=100.0)
    meter = aggregator(progress)
    add(meter, [report(2.0, 4.0)])
    now.append(13.0)
    meter.exclude(1.0)
    meter.add_seconds()
    assert progress.seconds == 102.0
    now.append(15.0)
    line = meter.line()
    assert progress.seconds == 104.0
    assert line["images_per_s"] == 2 / 4.0


def test_the_log_has_a_line_of_losses_and_speed():
    line = {"step": 20, "total_steps": 500, "loss": 5.0, "contrastive_loss": 1.5, "held_out.contrastive_loss": 9.0}
    assert log_line({**line, "lr": 3e-4, "images_per_s": 31.26, "mfu": 0.3}) == (
        "step 20/500  loss 5.0000  contrastive 1.5000  lr 0.0003  31.3 images/s"
    )
