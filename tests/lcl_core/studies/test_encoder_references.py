"""Every place where a study's spec may refer to an encoder."""

from __future__ import annotations

from collections.abc import Callable

from lcl_core.specs.parsing import encoder_fields, parse_as, parse_spec
from lcl_core.specs.study import StudySpec
from lcl_core.studies.encoder_references import (
    TRAINING_FIELDS,
    encoder_references,
    encoders_of_runs,
    replace_encoders,
)
from lcl_core.studies.results import CellRecord, RunRecord
from lcl_core.studies.trials import evaluate_spec, pretrain_spec, study_rows

TUNED = {"tasks": ["tuned_retrieval"], "tuned_retrieval.text_encoder": "minilm"}
STUDY = {
    "pretrain": {"model": {"init": "base"}},
    "axes": [
        {
            "name": "start",
            "variants": [
                {"name": "base"},
                {"name": "dotted", "spec": {"model.init": "other"}},
                {"name": "nested", "spec": {"model": {"init": "third"}}},
                {"name": "none", "spec": {"model.init": None}},
            ],
        },
        {"name": "teacher", "variants": [{"name": "b16", "spec": {"objective": {"distill.encoder": "teacher"}}}]},
    ],
    "search": {
        "kind": "halving", "trials": 2, "rungs": [10], "metric": {"name": "m", "metric": "IR@5"},
        "parameters": {"model.init": {"kind": "choice", "values": ["drawn", "base"]}},
        "validation": {**TUNED, "splits": ["val"], "tuned_retrieval.text_encoder": "short"},
    },
    "evaluate": {**TUNED, "splits": ["test"]},
    "metrics": [{"name": "m", "metric": "IR@5"}],
}  # fmt: skip


def test_references_are_found_and_replaced_wherever_they_are() -> None:
    study = parse_as(StudySpec, STUDY)
    names = ["base", "other", "third", "teacher", "minilm", "drawn", "short"]
    assert sorted(encoder_references(study)) == sorted(names)
    pinned = replace_encoders(study, {name: f"enc_{name}" for name in names}.__getitem__)
    assert sorted(encoder_references(pinned)) == sorted(f"enc_{name}" for name in names)
    assert evaluate_spec(pinned, 1, "x").tuned_retrieval.text_encoder == "enc_minilm"
    assert evaluate_spec(pinned, 0, "x").tuned_retrieval.text_encoder == "enc_short"
    assert {pretrain_spec(pinned, row, 0).model.init for row in study_rows(pinned)} <= {"enc_drawn", "enc_base"}
    assert replace_encoders(pinned, str) == pinned, "a study without names stays as it is"


def test_an_encoder_that_no_task_of_the_evaluation_uses_is_no_reference(study_of: Callable[..., StudySpec]) -> None:
    unused = {"tasks": ["retrieval"], "tuned_retrieval": {"text_encoder": "minilm"}}
    assert encoder_references(study_of(evaluate=unused)) == []


def test_the_fields_are_those_of_a_pretraining() -> None:
    model = {"init": "a", "vision_init": "c"}
    spec = parse_spec("pretrain", {"model": model, "objective": {"distill": {"encoder": "b"}}})
    assert tuple(encoder_fields(spec)) == TRAINING_FIELDS


def test_names_stand_for_the_encoders_that_the_first_runs_had(study_of: Callable[..., StudySpec]) -> None:
    study = study_of(axes=[], seeds=[0, 1], pretrain={"model": {"init": "base"}}, evaluate=TUNED)
    inputs = [{}, {"encoders": {"enc_1": "h", "enc_text": "h"}}]  # the first has not started
    cells = [
        CellRecord(
            *(number, {}, {}, number, 0),
            RunRecord(f"run_{number}", "succeeded", spec={"model": {"init": f"enc_base{number}"}}),
            RunRecord(
                f"eval_{number}",
                "succeeded",
                spec=evaluate_spec(study, 0, f"enc_{number}").model_dump(mode="json"),
                inputs=inputs[number],
            ),
        )
        for number in range(2)
    ]
    assert encoders_of_runs(study, cells) == {"base": "enc_base0", "minilm": "enc_text"}
