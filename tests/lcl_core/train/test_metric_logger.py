"""Metric lines on disk, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.metrics import MetricLogger, setup_lines
from tests.lcl_core.train.small_runs import prepared, trainer

LINES = [
    {"step": 4, "total_steps": 8, "loss": 3.25, "phase": "training"},
    {"step": 8, "total_steps": 8, "loss": 2.5, "phase": "training"},
]


@pytest.fixture
def run_dir(tmp_path):
    run_dir = RunDir(tmp_path)
    run_dir.prepare({})
    return run_dir


def write(run_dir, *, tensorboard):
    journal = MetricLogger(run_dir, tensorboard)
    for line in LINES:
        journal.write(line)
    journal.close()


@pytest.mark.parametrize("tensorboard", [False, True])
def test_each_line_is_one_of_json(run_dir, tensorboard):
    write(run_dir, tensorboard=tensorboard)
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    assert all(line.pop("time") > 0 for line in lines)
    assert lines == LINES
    assert (run_dir.artifacts / "tensorboard").exists() == tensorboard


def test_tensorboard_shows_the_numbers_of_all_attempts(run_dir):
    write(run_dir, tensorboard=True)
    journal = MetricLogger(run_dir, True)
    journal.write({"step": 12, "loss": 1.75})
    # before it is closed: a run that is killed has told what it knew
    shown = EventAccumulator(str(run_dir.artifacts / "tensorboard")).Reload()
    journal.close()
    assert sorted(shown.Tags()["scalars"]) == ["loss", "total_steps"]
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [(4, 3.25), (8, 2.5), (12, 1.75)]


def test_a_missing_package_names_the_extra(run_dir, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"lcl\[tensorboard\]") as caught:
        MetricLogger(run_dir, True)
    assert (caught.value.code, caught.value.field) == ("extra_missing", "engine.tensorboard")
    MetricLogger(run_dir, False).close()


def test_the_log_says_what_is_trained_on_what_and_each_checkpoint(tmp_path, sample_zip, capsys):
    run_dir = prepared(tmp_path, sample_zip, steps=4, checkpoint_every=2, log_every=2)
    trainer(run_dir).run()
    lines = [line for line in capsys.readouterr().out.splitlines() if "  " in line]
    assert [line.partition("  ")[0] for line in lines] == [
        "spec", "model", "device", "data", "start", "step 2/4", "checkpoint", "step 4/4", "checkpoint",
    ]  # fmt: skip
    told = dict(line.partition("  ")[::2] for line in lines)
    assert told["spec"].startswith("lcl  4 steps")
    assert " parameters  " in told["model"]
    assert told["device"].startswith("cpu  ")
    assert "sample" in told["data"]
    assert (told["start"], told["checkpoint"]) == ("step 0", "step 4")
    trainer(run_dir).run()
    assert "start  checkpoint of step 4" in capsys.readouterr().out


@pytest.mark.parametrize(("order", "ranks", "wanted"), [("blocks", 5, "385"), ("blocks", 4, None), ("full", 5, None)])
def test_a_window_that_ranks_cannot_divide_is_warned_about(order, ranks, wanted):
    spec = PretrainSpec.model_validate({"data": {"order": order}})
    lines = setup_lines(spec, torch.nn.Linear(1, 1), torch.device("cpu"), ranks, 0)
    found = [line for line in lines if line.startswith("warning")]
    assert [line.split(";")[1].split()[0] for line in found] == ([wanted] if wanted else [])
