"""Decay groups and the learning rate."""

from __future__ import annotations

import json

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import OptimizerSpec
from lcl_core.train.optimizer import (
    build_optimizer,
    describe_rates,
    freeze_parts,
    learning_rate,
    rate_scales,
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


def test_without_scales_the_groups_are_two_without_a_factor(small_model):
    assert rate_scales(small_model, {}) == {}
    scales = rate_scales(small_model, {"text": 1.0})
    groups = build_optimizer(small_model, lr=1e-3, scales=scales).param_groups
    plain = build_optimizer(small_model, lr=1e-3).param_groups
    assert [len(group["params"]) for group in groups] == [len(group["params"]) for group in plain]
    assert all(group.keys() == other.keys() for group, other in zip(groups, plain, strict=True))
    assert not any("lr_scale" in group for group in groups)


def test_rates_follow_the_part(small_model):
    freeze_parts(small_model, ["pooler"])
    assert [small_model.pool_project.training, small_model.visual.training] == [False, True]
    scales = rate_scales(small_model, {"vision": 2.0, "text": 0.1})
    optimizer = build_optimizer(small_model, lr=1e-3, scales=scales)
    set_learning_rate(optimizer, 1e-2)
    names = {id(parameter): name for name, parameter in small_model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "visual.ln_post.weight": 2e-2,
        "visual.conv1.weight": 2e-2,
        "text.token_embedding.weight": 1e-3,
        "lm_head.1.weight": 1e-2,
        "logit_scale": 1e-2,
    }
    assert {name: rates[name] for name in expected} == pytest.approx(expected)
    assert not any(name.startswith("pool_project.") for name in rates)
    assert len(rates) == sum(parameter.requires_grad for parameter in small_model.parameters())
    assert all((decay > 0) == (small_model.get_parameter(name).ndim >= 2) for name, decay in decays.items())
    assert optimizer.param_groups[0]["lr"] == 1e-2, "the rate of the metric line"
    shown = describe_rates(small_model, scales)
    assert "vision x 2, pooler x 0, text x 0.1, head x 1" in shown


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
