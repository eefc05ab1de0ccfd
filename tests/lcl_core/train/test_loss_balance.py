"""The weight of the contrastive loss with which the gradients keep a ratio on the vision tower."""

from __future__ import annotations

import math

import pytest
import torch

from lcl_core.common.run_dir import ExitCode, JobCancelled
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.objectives.lcl import Lcl
from lcl_core.objectives.registry import build_objective
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.checkpoint.state import TrainingProgress
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.loss_balance import LossBalance, adjusted_weight, gradient_squares
from lcl_core.train.monitor import WeightsCopy
from lcl_core.train.train_step import TrainingModule, TrainingStep
from lcl_core.train.trainer import Trainer
from tests.lcl_core.batch_partitions import partition_batches
from tests.lcl_core.train.small_runs import curve, finished, prepared, trainer, weights

PAIRS = {"sources": [{"view": "pairs"}]}


def column(run_dir, name):
    return [line[name] for line in curve(run_dir)]


def test_the_norms_are_those_of_two_backward_passes(small_config, documents, pixels):
    config = LCLConfig(**{**small_config.to_dict(), "contrastive_weight": 0.3})
    model, objective = build_model(config, seed=7), Lcl({"contrastive": 0.3, "generation": 1.0})
    step = TrainingStep(model, objective, RankGroup())
    copy = WeightsCopy(PretrainSpec(precision="fp32"), config, torch.device("cpu"))
    copy.load(step.trained)
    batch = objective.collate(documents, pixels, config)
    found = gradient_squares(copy, batch)
    assert found is not None
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    for name, square in zip(("contrastive_loss", "generation_loss"), found, strict=True):
        model.zero_grad()
        getattr(model(pixel_values=pixels, input_ids=ids), name).backward()
        expected = sum(float(p.grad.square().sum()) for p in model.visual.parameters() if p.grad is not None)
        assert square == pytest.approx(expected, rel=1e-4)
    assert not any(p.requires_grad or p.grad is not None for p in copy.module.parameters())


@pytest.mark.parametrize(
    ("form", "rows", "defined"),
    [("infonce", [2], False), ("infonce", [0], False), ("infonce", [0, 2], False), ("infonce", [0, 1], True),
     ("sigmoid", [2], False), ("sigmoid", [0], True)],
)  # fmt: skip
def test_too_few_pairs_have_no_ratio_and_leave_the_weight(small_config, documents, pixels, form, rows, defined):
    """The first document has one pair, the second one two, and the third one none: its image is at the start."""
    fields = {"objective": {"hold_gradient_ratio": 0.5, "contrastive_loss": form}, "precision": "fp32"}
    spec = PretrainSpec.model_validate(fields)
    model, objective = build_model(small_config, seed=7), build_objective(spec.objective, small_config)
    copy = WeightsCopy(spec, small_config, torch.device("cpu"))
    balance = LossBalance(spec.objective, TrainingModule(model, objective), copy, RankGroup())
    (batch,) = partition_batches(objective, documents, pixels, small_config, [rows])
    progress = TrainingProgress()
    found = balance.metrics(batch, progress, measure=True, adjust=True)
    assert ("gradient_ratio" in found) == defined
    assert all(type(value) is float for value in found.values()), "a copy to the device would wait for it"
    assert (progress.contrastive_weight is not None) == defined
    assert not any(parameter.requires_grad for parameter in copy.module.parameters())


@pytest.mark.parametrize("name", ["lcl", "coca", "blip2"])
def test_a_measured_run_has_the_same_weights(tmp_path, sample_zip, name):
    runs = {}
    for measured in (False, True):
        objective = {"name": name, "log_gradient_ratio": measured}
        runs[measured] = prepared(tmp_path / str(measured), sample_zip, steps=4, data=PAIRS, objective=objective)
        trainer(runs[measured]).run()
    assert weights(runs[True]) == weights(runs[False])
    (ratio,) = column(runs[True], "gradient_ratio")
    assert 0 < ratio < math.inf
    assert [{k: v for k, v in line.items() if k != "gradient_ratio"} for line in curve(runs[True])] == curve(
        runs[False]
    )


def test_an_adjustment_goes_a_part_of_the_way():
    weight, ratio = 0.1, 0.02
    for _ in range(40):
        weight, ratio = (adjusted := adjusted_weight(weight, ratio, 1.0)), ratio * adjusted / weight
    assert ratio == pytest.approx(1.0, rel=0.02)
    assert weight == pytest.approx(5.0, rel=0.02)
    assert adjusted_weight(0.1, 1e-9, 1.0) == pytest.approx(0.15), "one odd measurement changes little"
    assert adjusted_weight(1e3, 0.0, 1.0) == 1e3


TARGET = 0.5
HELD = {
    "objective": {"hold_gradient_ratio": TARGET},
    "optimizer": {"lr": 1e-4, "warmup_steps": 2},
    "log_every": 1,
    "steps": 16,
    "checkpoint_every": 4,
}


@pytest.fixture(scope="module")
def held(tmp_path_factory, sample_zip):
    run_dir = prepared(tmp_path_factory.mktemp("held"), sample_zip, **HELD)
    trainer(run_dir).run()
    return run_dir


def test_the_ratio_is_held(held):
    ratios, used = column(held, "gradient_ratio"), column(held, "contrastive_weight")
    assert used[0] == pytest.approx(0.1)
    for step in range(1, 16):
        assert used[step] == pytest.approx(adjusted_weight(used[step - 1], ratios[step - 1], TARGET), rel=1e-3)
    assert abs(math.log(ratios[-1] / TARGET)) < abs(math.log(ratios[0] / TARGET)) / 2


def test_a_held_ratio_resumes_exactly(held, tmp_path, sample_zip, monkeypatch):
    run_dir = prepared(tmp_path, sample_zip, **HELD)
    flags = Trainer._flags
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_flags", lambda self: [int(self.progress.step == 6), *flags(self)[1:]])
        with pytest.raises(JobCancelled):
            trainer(run_dir).run()
    trainer(run_dir).run()
    assert curve(run_dir) == curve(held)
    assert weights(run_dir) == weights(held)


@pytest.mark.extended
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_ranks_agree_on_the_weight(tmp_path, sample_zip, strategy):
    """With another weight on one rank the numbers of a line, which are means over the ranks, would not fit together."""
    engine = {"processes": 2, "strategy": strategy}
    run_dir = prepared(tmp_path, sample_zip, **{**HELD, "steps": 4}, engine=engine)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    ratios, used = column(run_dir, "gradient_ratio"), column(run_dir, "contrastive_weight")
    for step in range(1, 4):
        assert used[step] == pytest.approx(adjusted_weight(used[step - 1], ratios[step - 1], TARGET), rel=1e-3)
    assert LCLModel.from_pretrained(run_dir.artifacts / "encoder")
