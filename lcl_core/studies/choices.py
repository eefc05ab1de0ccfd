"""Splits by which a study chooses trials or weights: none of them may be one that it reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.specs.data import VIEW_RECORDS
from lcl_core.specs.evaluate import TRAINED_TASKS, EvaluateSpec
from lcl_core.specs.study import StudySpec
from lcl_core.studies.trials import PlannedCell, evaluate_specs, expand_study


@dataclass(frozen=True)
class Choice:
    """A choice by the images of some splits of a dataset.

    Attributes:
        field: of the study, which names the splits.
        chosen: what is chosen, for messages.
    """

    field: str
    chosen: str
    dataset: str
    splits: frozenset[str]


def plan_cells(study: StudySpec) -> list[PlannedCell]:
    """The first cells of a study that is submitted or extended, as ``expand_study``.

    That one does not check choices: stored studies of older versions may have one on a reported split.

    Raises: UserError as ``expand_study``; ``bad_spec`` when trials or weights would be chosen on a reported split.
    """
    cells = expand_study(study)
    reported = evaluate_specs(study)["evaluate"]
    for choice in study_choices(study, cells):
        shared = choice.splits & set(reported.splits) if choice.dataset == reported.dataset else None
        if shared:
            raise UserError(
                f"{choice.field}: {', '.join(sorted(shared))} is what evaluate reports; choose {choice.chosen} on "
                "another split, such as val",
                code="bad_spec",
                field=choice.field,
            )
    return cells


def study_choices(study: StudySpec, cells: Iterable[PlannedCell]) -> Iterator[Choice]:
    """Every choice of trials by the search, and of weights by the monitors of ``cells``."""
    validation = evaluate_specs(study).get("search.validation")
    if validation is not None:
        yield from _validation_choices(validation)
    for cell in cells:
        monitor = cell.spec.monitor
        if monitor is not None and monitor.export == "best" and VIEW_RECORDS[monitor.view] == "pairs":
            yield Choice(_monitor_field(study, cell), "weights", monitor.dataset, frozenset({monitor.split}))


def _validation_choices(validation: EvaluateSpec) -> Iterator[Choice]:
    """Of trials, by the splits that are tested and by those that heads learn from or are chosen on."""
    yield Choice("search.validation.splits", "trials", validation.dataset, frozenset(validation.splits))
    for task in TRAINED_TASKS:
        if task not in validation.tasks:
            continue
        own = getattr(validation, task)
        for name in ("train_split", "validation_split"):
            split = getattr(own, name, None)  # dialogue has no validation_split
            if split is not None:
                field = f"search.validation.{task}.{name}"
                yield Choice(field, "trials", own.train_dataset or validation.dataset, frozenset({split}))


def _monitor_field(study: StudySpec, cell: PlannedCell) -> str:
    """The field that sets the cell's monitor: of the search or of a variant, where one does, else of the base."""
    if _sets_monitor(cell.parameters):
        return "search.parameters"
    fields = [
        f"axes.{a}.variants.{v}.spec.monitor"
        for a, axis in enumerate(study.axes)
        for v, variant in enumerate(axis.variants)
        if cell.labels[axis.name] == variant.name and _sets_monitor(variant.spec)
    ]
    return fields[-1] if fields else "pretrain.monitor.split"


def _sets_monitor(overlay: dict[str, Any]) -> bool:
    return any(path.split(".")[0] == "monitor" for path in overlay)
