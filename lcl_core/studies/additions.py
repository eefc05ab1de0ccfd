"""A study with more seeds, variants or trials than it had."""

from __future__ import annotations

from typing import Any

from lcl_core.errors import UserError
from lcl_core.specs import AdditionSpec, AxisSpec, HalvingSearch, RandomSearch, StudySpec, parse_as


def extended(study: StudySpec, addition: AdditionSpec) -> StudySpec:
    """``study``, which has no preset, and what ``addition`` brings; asking twice for the same changes nothing more.

    Raises: UserError ``not_extendable``, or ``bad_spec`` with the field of the addition.
    """
    if isinstance(study.search, HalvingSearch):
        raise UserError(
            "a halving cannot be extended: its trials were already ranked against each other; start a new study, "
            "which takes over the runs that are the same",
            code="not_extendable",
        )
    added = list(dict.fromkeys((*study.seeds, *addition.seeds)))
    changes: dict[str, Any] = {
        "seeds": added,
        "axes": [axis.model_dump(mode="json") for axis in _axes(study, addition.axes)],
        "search": _search(study, addition.trials),
    }
    return parse_as(StudySpec, {**study.model_dump(mode="json"), **changes})


def _axes(study: StudySpec, more: tuple[AxisSpec, ...]) -> list[AxisSpec]:
    known = {axis.name: axis for axis in study.axes}
    for place, axis in enumerate(more):
        if axis.name not in known:
            raise UserError(
                f"the study has no axis {axis.name!r}, and a new one would change every row; choose from "
                f"{', '.join(known) or 'none'}, or start a new study",
                code="bad_spec",
                field=f"axes.{place}.name",
            )
        known[axis.name] = _joined(known[axis.name], axis, place)
    return list(known.values())


def _joined(old: AxisSpec, new: AxisSpec, place: int) -> AxisSpec:
    there = {variant.name: variant for variant in old.variants}
    for number, variant in enumerate(new.variants):
        if there.setdefault(variant.name, variant) != variant:
            raise UserError(
                f"axis {old.name} has another variant {variant.name!r} already; give the new one another name",
                code="bad_spec",
                field=f"axes.{place}.variants.{number}.name",
            )
    return AxisSpec(name=old.name, variants=tuple(there.values()))


def _search(study: StudySpec, trials: int | None) -> dict[str, Any]:
    search = study.search.model_dump(mode="json")
    if trials is None:
        return search
    if not isinstance(study.search, RandomSearch):
        raise UserError("trials: only a random search has trials to add", code="bad_spec", field="trials")
    return {**search, "trials": max(trials, study.search.trials)}
