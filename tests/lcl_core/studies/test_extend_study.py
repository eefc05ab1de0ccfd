"""A study that grows keeps what it has."""

from collections.abc import Callable

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import AdditionSpec, StudySpec
from lcl_core.studies.trials import apply_addition, expand_study

StudyOf = Callable[..., StudySpec]
RANDOM = {"kind": "random", "trials": 2, "parameters": {"optimizer.lr": {"kind": "uniform", "low": 0.1, "high": 0.9}}}


def addition(**given):
    return parse_as(AdditionSpec, given)


def variants(axis, *names):
    made = [{"name": name, "spec": {"objective.contrastive_weight": float(name)}} for name in names]
    return [{"name": axis, "variants": made}]


def test_seeds_and_variants_are_added_and_the_old_cells_stay(study_of):
    study = study_of()
    more = apply_addition(study, addition(seeds=[4, 0], axes=variants("loss", "2", "3")))
    assert more.seeds == (0, 4)
    assert [variant.name for variant in more.axes[0].variants] == ["both", "contrastive", "2", "3"]
    old = {cell.key: cell.hash for cell in expand_study(study)}
    new = {cell.key: cell.hash for cell in expand_study(more)}
    assert len(new) == 8
    assert old.items() <= new.items()


def test_asking_twice_changes_nothing_the_second_time(study_of):
    wanted = addition(seeds=[4], axes=variants("loss", "2"))
    once = apply_addition(study_of(), wanted)
    assert apply_addition(once, wanted) == once


def test_a_random_search_gets_more_trials_and_never_fewer(study_of):
    study = study_of(search=RANDOM)
    more = apply_addition(study, addition(trials=5))
    assert [cell.parameters for cell in expand_study(more)][:2] == [cell.parameters for cell in expand_study(study)][:2]
    assert apply_addition(more, addition(trials=3)).search == more.search


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"axes": variants("size", "2")}, "bad_spec", "axes.0.name"),
        ({"axes": [{"name": "loss", "variants": [{"name": "both", "spec": {"steps": 3}}]}]}, "bad_spec",
         "axes.0.variants.0.name"),
        ({"trials": 3}, "bad_spec", "trials"),
    ],
)  # fmt: skip
def test_what_would_change_old_rows_is_refused(study_of, given, code, field):
    with pytest.raises(UserError) as caught:
        apply_addition(study_of(), addition(**given))
    assert (caught.value.code, caught.value.field) == (code, field)
