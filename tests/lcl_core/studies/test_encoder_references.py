"""Every place where a study's spec may refer to an encoder."""

from lcl_core.specs.parsing import parse_as, parse_spec
from lcl_core.specs.study import StudySpec
from lcl_core.studies.encoder_references import (
    TRAINING_FIELDS,
    encoder_references,
    replace_encoders,
)
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
        "kind": "random", "trials": 2,
        "parameters": {"model.init": {"kind": "choice", "values": ["drawn", "base"]}},
    },
    "evaluate": {**TUNED, "splits": ["test"]},
    "metrics": [{"name": "m", "metric": "IR@5"}],
}  # fmt: skip


def test_references_are_found_and_replaced_wherever_they_are():
    study = parse_as(StudySpec, STUDY)
    names = ["base", "other", "third", "teacher", "minilm", "drawn"]
    assert sorted(encoder_references(study)) == sorted(names)
    pinned = replace_encoders(study, {name: f"enc_{name}" for name in names}.__getitem__)
    assert sorted(encoder_references(pinned)) == sorted(f"enc_{name}" for name in names)
    assert evaluate_spec(pinned, "x").tuned_retrieval.text_encoder == "enc_minilm"
    assert {pretrain_spec(pinned, row, 0).model.init for row in study_rows(pinned)} <= {"enc_drawn", "enc_base"}
    assert replace_encoders(pinned, str) == pinned, "a study without names stays as it is"


def test_an_encoder_that_no_task_of_the_evaluation_uses_is_no_reference(study_of):
    unused = {"tasks": ["retrieval"], "tuned_retrieval": {"text_encoder": "minilm"}}
    assert encoder_references(study_of(evaluate=unused)) == []


def test_the_fields_are_those_of_a_pretraining():
    model = {"init": "a"}
    spec = parse_spec("pretrain", {"model": model, "objective": {"distill": {"encoder": "b"}}})
    assert tuple(spec.references().encoders) == TRAINING_FIELDS
