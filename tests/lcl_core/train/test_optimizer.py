"""Decay groups and the learning rate."""

from __future__ import annotations

import json

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import OptimizerSpec
from lcl_core.train.optimizer import (
    build_optimizer,
    freeze_parts,
    learning_rate,
    set_learning_rate,
)


def test_matrices_are_decayed_and_vectors_are_not(small_model):
    decayed, plain = build_optimizer(small_model, lr=1e-3).param_groups
    names = {id(parameter): name for name, parameter in small_model.named_parameters()}
    with_decay = {names[id(parameter)] for parameter in decayed["params"]}
    assert {"text.positional_embedding", "text.token_embedding.weight", "pool_project.query_token"} <= with_decay
    assert not with_decay & {"visual.class_embedding", "logit_scale", "visual.ln_pre.weight"}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert plain["weight_decay"] == 0


def test_frozen_parts_are_left_out(small_model):
    freeze_parts(small_model, ["pooler"])
    assert [small_model.pool_project.training, small_model.visual.training] == [False, True]
    optimizer = build_optimizer(small_model, lr=1e-3)
    set_learning_rate(optimizer, 1e-2)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in small_model.parameters()} - {id(p) for p in small_model.pool_project.parameters()}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}


def test_schedule_rises_and_falls():
    spec = OptimizerSpec(lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, 110, spec) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)


def test_constant_then_a_line_to_zero():
    spec = OptimizerSpec(lr=1.0, warmup_steps=10, schedule="constant_with_decay", decay_steps=20)
    rates = [learning_rate(step, 100, spec) for step in range(101)]
    assert rates[9:81] == [1.0] * 72
    assert rates[:9] == pytest.approx([(step + 1) / 10 for step in range(9)])
    assert rates[81] == pytest.approx(0.95)
    assert rates[99] == pytest.approx(0.05)
    assert rates[100] == 0


@pytest.mark.parametrize("given", [{"schedule": "constant_with_decay"}, {"schedule": "cosine", "decay_steps": 5}])
def test_decay_steps_and_their_schedule_go_together(given):
    with pytest.raises(UserError, match="decay_steps") as caught:
        parse_spec("pretrain", {"optimizer": given})
    assert caught.value.field == "optimizer"


def test_schedule_matches_the_authors(golden):
    cases = json.loads((golden / "schedule.json").read_text())
    assert {case["kind"] for case in cases} == {"cosine", "const"}
    names = {"cosine": "cosine", "const": "constant"}
    for case in cases:
        spec = OptimizerSpec(lr=case["base_lr"], warmup_steps=case["warmup"], schedule=names[case["kind"]])
        assert learning_rate(case["step"], case["total"], spec) == pytest.approx(case["lr"], rel=1e-9, abs=1e-15)
