"""Choosing hyper-parameters: the best wins, of equals the first, and what diverges loses."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.heads.training import grid_search
from lcl_core.specs.evaluate import TuningSpec

SPEC = TuningSpec(search={"lr": (0.1, 0.2), "epochs": (1, 3)})


def test_every_combination_is_tried_and_the_best_is_used():
    scores = {(0.1, 1): 0.5, (0.1, 3): 0.7, (0.2, 1): 0.7, (0.2, 3): 0.6}
    chosen, tried = grid_search(SPEC, lambda spec: scores[spec.lr, spec.epochs], field="classification")
    assert (chosen.lr, chosen.epochs, chosen.search) == (0.1, 3, {})
    assert tried == [{"lr": lr, "epochs": epochs, "score": score} for (lr, epochs), score in scores.items()]


def diverging(spec):
    if spec.lr == 0.1:
        raise UserError("no number", code="tuning_diverged")
    return 0.0


def test_what_diverges_loses_against_any_score():
    chosen, tried = grid_search(SPEC, diverging, field="x")
    assert chosen.lr == 0.2
    assert [trial["score"] for trial in tried] == [None, None, 0.0, 0.0]


def test_if_all_diverge_the_search_is_named():
    with pytest.raises(UserError) as caught:
        grid_search(TuningSpec(search={"lr": (0.1,)}), diverging, field="few_shot")
    assert (caught.value.code, caught.value.field) == ("tuning_diverged", "few_shot.search")


def test_other_errors_are_not_swallowed():
    def broken(_):
        raise UserError("cannot be read", code="image_unreadable")

    with pytest.raises(UserError, match="cannot be read"):
        grid_search(SPEC, broken, field="x")
