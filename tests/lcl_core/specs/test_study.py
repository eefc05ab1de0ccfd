"""What a study may say, and how it is refused when it says something else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.base import presets
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec

METRIC = {"name": "m", "metric": "IR@5"}
RATE = {"kind": "log-uniform", "low": 1e-4, "high": 1e-2}
SEARCH = {"kind": "random", "trials": 4, "parameters": {"optimizer.lr": RATE}}


def axis(name, *variants):
    return {"name": name, "variants": [{"name": variant} for variant in variants]}


def study(**given):
    return parse_as(StudySpec, {"metrics": [METRIC], **given})


def test_a_preset_fills_in_what_is_not_given():
    spec = parse_as(StudySpec, {"preset": "table1", "seeds": [7], "pretrain": {"steps": 3}})
    assert (spec.seeds, spec.pretrain) == ((7,), {"preset": "sample", "steps": 3})
    assert [variant.name for variant in spec.axes[0].variants][-1] == "lcl"


@pytest.mark.parametrize("name", sorted(presets("study")))
def test_a_parsed_study_parses_to_itself(name):
    spec = parse_as(StudySpec, {"preset": name})
    assert parse_as(StudySpec, json.loads(json.dumps(spec.model_dump(mode="json")))) == spec


@pytest.mark.parametrize(
    ("given", "field", "word"),
    [
        ({"metrics": [METRIC, METRIC]}, None, "two metrics named m"),
        ({"axes": [axis("a", "x"), axis("a", "y")]}, None, "two axes named a"),
        ({"axes": [axis("a", "x", "x")]}, "axes.0", "two variants named x"),
        ({"axes": [axis("trial", "x")]}, "axes.0", "cannot be named trial"),
        ({"axes": [axis("a")]}, "axes.0.variants", "at least 1"),
        ({"axes": [axis("a b", "x")]}, "axes.0.name", "a name starts with a letter or digit"),
        ({"seeds": [1, 2, 1]}, None, "two seeds 1"),
        ({"seeds": []}, "seeds", "at least 1"),
        ({"seeds": [-1]}, "seeds.0", "greater"),
        ({"axes": [axis("a", "x")], "baseline": {"a": "y"}}, None, "one variant of each axis"),
        ({"axes": [axis("a", "x"), axis("b", "y")], "baseline": {"a": "x"}}, None, "one variant of each axis"),
        ({"preset": "nothing"}, None, "choose from"),
        ({"preset": [None]}, "preset", "string"),
        ({"pretrain": {"optimizer": {"lr": float("nan")}}}, "pretrain", "finite"),
        ({"pretrain": {"data": [{"a": "\x00"}]}}, "pretrain", "printed"),
        ({"evaluate": {"\ud800": 1}}, "evaluate", "printed"),
        ({"axes": [{"name": "a", "variants": [{"name": "x", "spec": {"b": ["\ud800"]}}]}]},
         "axes.0.variants.0.spec", "printed"),
        ({"question": "two\nlines"}, "question", "no control characters"),
        ({"compute": "money"}, "compute", "seconds"),
        ({"search": {"kind": "guess"}}, "search", "grid"),
    ],
)  # fmt: skip
def test_bad_studies_name_the_field(given, field, word):
    with pytest.raises(UserError, match=word) as caught:
        study(**given)
    assert (caught.value.field or "").startswith(field or "")
    assert field is not None or caught.value.field is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"parameters": {"optimizer.lr": {**RATE, "low": 1.0}}}, "below high"),
        ({"parameters": {"optimizer.lr": {**RATE, "low": 0.0}}}, "above 0"),
        ({"parameters": {"Optimizer lr": RATE}}, "dotted path, such as optimizer.lr"),
        ({"parameters": {}}, "at least 1"),
    ],
)
def test_bad_searches_are_refused(changes, word):
    with pytest.raises(UserError, match=word):
        study(search={**SEARCH, **changes})


def test_studies_need_no_torch_and_are_read_in_a_moment() -> None:
    code = "import lcl_core.db.studies, lcl_core.studies.table, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lcl_core.studies.table" in loaded
    assert not {"torch", "numpy", "scipy", "matplotlib", "fastapi"} & set(loaded)
