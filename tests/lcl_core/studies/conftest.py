"""Small studies, and cells whose runs found what a test says."""

from typing import Any

import pytest

from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec
from lcl_core.studies.results import CellRecord, RunRecord

Json = dict[str, Any]
METRIC = {"name": "IR@5", "metric": "IR@5"}
LOSSES = {
    "name": "loss",
    "variants": [{"name": "both"}, {"name": "contrastive", "spec": {"objective.generation_weight": 0.0}}],
}


@pytest.fixture
def study_of():
    """A study of two losses with one seed, changed as asked."""

    def make(**changes):
        return parse_as(StudySpec, {"axes": [LOSSES], "metrics": [METRIC], "pretrain": {"steps": 10}, **changes})

    return make


def row(value, **more):
    """A row of an evaluation."""
    return {"task": "retrieval", "split": "test", "variant": "captions[0]", "metric": "IR@5", "value": value, **more}


@pytest.fixture
def cell_of():
    """A cell; with ``value`` its evaluation has succeeded with that IR@5, otherwise its pre-training is queued."""

    def make(number, value=None, seed=0, **more):
        facts = {"labels": {"loss": "both"}, "parameters": {}, **more}
        state = facts.pop("state", "queued" if value is None else "succeeded")
        encoder = facts.pop("encoder", {"seconds": 10.0, "images_seen": 100})
        rows = facts.pop("rows", None if value is None else [row(value)])
        result = {"encoder": encoder, "final": facts.pop("final", {})} if state == "succeeded" else {}
        run = RunRecord(f"run_{number}", state, result, facts.pop("spec", {"steps": 10}))
        evaluation = None if rows is None else RunRecord(f"eval_{number}", "succeeded", {"rows": rows})
        return CellRecord(number=number, seed=seed, run=run, evaluation=evaluation, **facts)

    return make
