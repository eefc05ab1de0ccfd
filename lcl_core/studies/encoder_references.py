"""Encoders that a study's spec refers to, by id or name, and the spec with other references in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.study import AxisSpec, ChoiceSpec, GridSearch, StudySpec
from lcl_core.studies.trials import Setting, apply_overlay, evaluate_spec

TRAINING_FIELDS = ("model.init", "objective.distill.encoder")
Replacement = Callable[[str], str]


def encoder_references(study: StudySpec) -> list[str]:
    """Ids and names of the encoders, each once; also of those that no cell uses, as variants override them."""
    found: dict[str, None] = {}

    def record(reference: str) -> str:
        found[reference] = None
        return reference

    replace_encoders(study, record)
    return list(found)


def replace_encoders(study: StudySpec, replacement: Replacement) -> StudySpec:
    """The study with ``replacement`` of each reference in the base, the variants, the search and the evaluations."""
    changes: dict[str, Any] = {
        "pretrain": _replace_fields(study.pretrain, replacement),
        "axes": replace_in_axes(study.axes, replacement),
        "evaluate": _replace_in_evaluation(study.evaluate, evaluate_spec(study), replacement),
    }
    search = study.search
    if not isinstance(search, GridSearch):
        parameters = {
            field: _replace_choices(field, parameter, replacement) if isinstance(parameter, ChoiceSpec) else parameter
            for field, parameter in search.parameters.items()
        }
        search = search.model_copy(update={"parameters": parameters})
    return study.model_copy(update={**changes, "search": search})


def replace_in_axes(axes: Iterable[AxisSpec], replacement: Replacement) -> tuple[AxisSpec, ...]:
    """The axes with ``replacement`` of each reference in their variants."""
    return tuple(
        axis.model_copy(
            update={
                "variants": tuple(
                    variant.model_copy(update={"spec": _replace_fields(variant.spec, replacement)})
                    for variant in axis.variants
                )
            }
        )
        for axis in axes
    )


def _replace_fields(given: Setting, replacement: Replacement, at: tuple[str, ...] = ()) -> Setting:
    """A partial pretrain spec, whose keys may be dotted at every level."""
    result: Setting = {}
    for key, value in given.items():
        path = (*at, *key.split("."))
        if isinstance(value, dict):
            result[key] = _replace_fields(value, replacement, path)
        else:
            refers = isinstance(value, str) and ".".join(path) in TRAINING_FIELDS
            result[key] = replacement(value) if refers else value
    return result


def _replace_choices(field: str, parameter: ChoiceSpec, replacement: Replacement) -> ChoiceSpec:
    values = tuple(_replace_fields({field: value}, replacement)[field] for value in parameter.values)
    return parameter.model_copy(update={"values": values})


def _replace_in_evaluation(given: Setting, spec: EvaluateSpec, replacement: Replacement) -> Setting:
    """A partial evaluate spec. ``spec``: the complete one, with the fields of its preset."""
    changed = {
        field: new
        for field, reference in spec.references().further_encoders.items()
        if (new := replacement(reference)) != reference
    }
    return apply_overlay(apply_overlay({}, given), changed) if changed else given
