"""Nothing is chosen on the images that a study reports."""

from collections.abc import Callable

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.study import StudySpec
from lcl_core.studies.trials import expand_study

StudyOf = Callable[..., StudySpec]
BEST = {"dataset": "sample", "split": "test_vendor", "choose": "held_out.retrieval_r5", "export": "best"}
ON_VAL = {**BEST, "split": "val"}


def variant(**spec):
    return [{"name": "a", "variants": [{"name": "x"}, {"name": "y", "spec": spec}]}]


@pytest.mark.parametrize(
    ("pretrain", "axes", "field"),
    [
        ({"monitor": BEST}, [], "pretrain.monitor.split"),
        ({}, variant(monitor=BEST), "axes.0.variants.1.spec.monitor"),
        ({"monitor": ON_VAL}, variant(**{"monitor.split": "test_vendor"}), "axes.0.variants.1.spec.monitor"),
        (
            {"monitor": {**BEST, "export": "last"}},
            variant(monitor={"export": "best"}),
            "axes.0.variants.1.spec.monitor",
        ),
    ],
)
def test_weights_are_not_chosen_on_what_is_reported(study_of, pretrain, axes, field):
    study = study_of(pretrain={"steps": 10, **pretrain}, axes=axes, evaluate={"splits": ["val_b", "test_vendor"]})
    with pytest.raises(UserError, match="test_vendor is what evaluate reports; choose weights on another") as caught:
        expand_study(study)
    assert (caught.value.code, caught.value.field) == ("bad_spec", field)


def test_a_search_may_not_move_the_monitor_onto_a_reported_split(study_of):
    splits = {"monitor.split": {"kind": "choice", "values": ["test_vendor"]}}
    search = {"kind": "random", "trials": 1, "parameters": splits}
    with pytest.raises(UserError) as caught:
        expand_study(study_of(pretrain={"monitor": ON_VAL}, search=search))
    assert caught.value.field == "search.parameters"


@pytest.mark.parametrize(
    "monitor",
    [
        {**BEST, "export": "last"},
        ON_VAL,
        {**BEST, "dataset": "other"},
        {**BEST, "dataset": "other", "view": "interleaved"},
    ],
)
def test_other_monitors_are_accepted(study_of, monitor):
    assert expand_study(study_of(pretrain={"steps": 10, "monitor": monitor}))
