"""The training loop, and the search: the best wins, of equals the first, and what diverges loses."""

import math
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from lcl_core.common.errors import UserError
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.tasks.base import SplitImages
from lcl_core.evaluation.training import (
    choose,
    encoder_groups,
    lr_factor,
    parameter_groups,
    search_candidates,
    train_head,
)
from lcl_core.specs.evaluate import ClassificationSpec

SPEC = ClassificationSpec(lr=0.1, weight_decay=0.5, warmup=0.0)


class Line(nn.Module):
    """y = a x + b, both starting at zero."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return self.linear(x)


def train(spec=SPEC, factor=1.0, **steps):
    line, passes = Line(), []
    points = torch.tensor([[1.0], [2.0]])

    def order(number):
        passes.append(number)
        return points[:, None]

    def loss(x):
        return factor * (line(x) - 3 * x).square().mean()

    context = SimpleNamespace(spec=SimpleNamespace(seed=0), progress=SimpleNamespace(heartbeat=lambda: None))
    source = SimpleNamespace(trained_encoder=None, context=context)
    losses = train_head(
        source, line, order, lambda x, rng: x, loss, spec.with_values(batch_size=1, **steps), 2, "classification",
        precision="fp32",
    )  # fmt: skip
    return line, losses, passes


def test_a_step_is_adamw_s_own():
    line, losses, _ = train(steps=1)
    assert losses == [9.0]  # (0 - 3) squared
    # The first step of Adam is the rate against the gradient's sign; the weight decays first, the bias does not.
    assert line.linear.weight.item() == pytest.approx(0.1, abs=1e-6)
    assert line.linear.bias.item() == pytest.approx(0.1, abs=1e-6)


def test_modules_are_left_as_they_are_asked_about():
    assert not train()[0].training


def test_rates_rise_in_a_line_and_fall_in_a_cosine():
    shares = [lr_factor(step, 12, 1 / 6) for step in range(12)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[7] == pytest.approx(0.5)  # half way from step 2 to step 12
    assert shares[11] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.9)))
    assert all(later < earlier for earlier, later in pairwise(shares[2:]))


def test_a_long_gradient_is_clipped():
    # Adam is blind to the gradient's length, but for its eps: a gradient shortened to nearly nothing barely moves.
    clipped, _, _ = train(SPEC.with_values(max_grad_norm=1e-9), steps=1)
    assert 0 < clipped.linear.weight.item() < 0.02


def test_an_encoder_s_parameters_are_in_one_group_each_at_their_layer_s_rate(encoder_dir):
    tower = load_image_encoder(encoder_dir).copy()
    spec = ClassificationSpec(encoder_lr=8e-4, layer_decay=0.5, weight_decay=0.1)
    groups = encoder_groups(tower, spec)
    found = {id(each): group for group in groups for each in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(tower.module.parameters()))
    named = dict(tower.module.named_parameters())
    rates = {name: (found[id(each)]["lr"], found[id(each)]["weight_decay"]) for name, each in named.items()}
    # Input, two blocks, output norm: 8e-4 halved three times at the input.
    assert rates["conv1.weight"] == (1e-4, 0.1)
    assert rates["class_embedding"] == (1e-4, 0.0)
    assert rates["transformer.resblocks.0.mlp.c_fc.weight"] == (2e-4, 0.1)
    assert rates["transformer.resblocks.1.ln_1.bias"] == (4e-4, 0.0)
    assert rates["ln_post.weight"] == (8e-4, 0.0)


def test_matrices_decay_and_nothing_else_does():
    class Head(nn.Module):
        undecayed = ("query",)

        def __init__(self):
            super().__init__()
            self.query = nn.Parameter(torch.zeros(2, 3))
            self.linear = nn.Linear(3, 2)
            self.fixed = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    head = Head()
    decayed, plain = parameter_groups(head, 0.1, 0.5)
    assert [id(each) for each in decayed["params"]] == [id(head.linear.weight)]
    assert {id(each) for each in plain["params"]} == {id(head.query), id(head.linear.bias)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_the_rate(bad):
    with pytest.raises(UserError, match=r"classification\.lr") as caught:
        train(factor=bad)
    assert (caught.value.code, caught.value.field) == ("diverged", "classification.lr")


@pytest.mark.parametrize(("fields", "steps"), [({"epochs": 3}, 6), ({"epochs": 3, "steps": 5}, 5)])
def test_steps_are_the_spec_s_or_those_of_its_epochs(fields, steps):
    _, losses, passes = train(**fields)
    assert (len(losses), passes) == (steps, [0, 1, 2])


SEARCH = ClassificationSpec(search={"lr": (0.1, 0.2), "epochs": (1, 3)})
HOLDOUT = SimpleNamespace(source=SplitImages(None, "val", [None] * 9), test=range(4))


def search(spec, attempt, holdout=HOLDOUT):
    """The chosen spec, and the log."""
    context = Mock(choices=[])
    chosen = choose(
        context, search_candidates(spec), lambda spec, _: attempt(spec), holdout,
        {"encoder": "trained", "transfer": "frozen"}, field="classification", metric="acc@1",
    )  # fmt: skip
    return chosen, context.choices


def test_every_combination_is_tried_and_the_best_is_used():
    scores = {(0.1, 1): 0.5, (0.1, 3): 0.7, (0.2, 1): 0.7, (0.2, 3): 0.6}
    chosen, (log,) = search(SEARCH, lambda spec: scores[spec.lr, spec.epochs])
    assert (chosen.lr, chosen.epochs, chosen.search) == (0.1, 3, {})
    assert log["tried"] == [{"lr": lr, "epochs": epochs, "score": score} for (lr, epochs), score in scores.items()]
    assert (log["chosen"], log["held_out"]) == ({"lr": 0.1, "epochs": 3}, {"split": "val", "pictures": 4, "of": 9})
    assert search(SPEC, None, holdout=None) == (SPEC, [])


def diverging(spec):
    if spec.lr == 0.1:
        raise UserError("no number", code="diverged")
    return 0.0


def test_what_diverges_loses_and_if_all_diverge_the_search_is_named():
    chosen, (log,) = search(SEARCH, diverging)
    assert chosen.lr == 0.2
    assert [trial["score"] for trial in log["tried"]] == [None, None, 0.0, 0.0]
    with pytest.raises(UserError) as caught:
        search(ClassificationSpec(search={"lr": (0.1,), "epochs": (1, 3)}), diverging)
    assert (caught.value.code, caught.value.field) == ("diverged", "classification.search")


def test_other_errors_are_not_swallowed():
    def broken(_):
        raise UserError("cannot be read", code="image_unreadable")

    with pytest.raises(UserError, match="cannot be read"):
        search(SEARCH, broken)
