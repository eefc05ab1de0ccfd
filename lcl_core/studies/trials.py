"""The runs of a study: axes and search give rows, rows and seeds give cells, each with a complete pretrain spec."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lcl_core.common.errors import UserError
from lcl_core.specs.base import merge_objects, presets
from lcl_core.specs.data import VIEW_RECORDS
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.parsing import parse_as, parse_spec, spec_hash
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.specs.study import (
    TRIAL,
    AdditionSpec,
    AxisSpec,
    ChoiceSpec,
    GridSearch,
    RandomSearch,
    RangeSpec,
    StudySpec,
    VariantSpec,
)


def apply_overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the fields of ``over``; objects within objects too, a list as a whole.

    Keys of ``over`` may be dotted: ``{"data.sources.0.view": "pairs"}`` changes one field of one source.
    """
    result = copy.deepcopy(base)
    for path, value in over.items():
        _set_field(result, path.split("."), value, path)
    return result


def _set_field(target: Any, keys: Sequence[str], value: Any, path: str) -> None:
    head, *rest = keys
    if isinstance(target, list):
        if not head.isdigit() or int(head) >= len(target):
            raise _unknown_path(path, f"the list there has {len(target)} items, and none is {head!r}")
        key: Any = int(head)
        old = target[key]
    elif isinstance(target, dict):
        key, old = head, target.get(head)
    else:
        raise _unknown_path(path, f"{head!r} lies within what is no object")
    if not rest:
        if isinstance(value, dict):
            target[key] = apply_overlay(old if isinstance(old, dict) else {}, value)
        else:
            target[key] = copy.deepcopy(value)
        return
    if old is None:
        if rest[0].isdigit():
            raise _unknown_path(path, f"the base does not give the list {head!r}; give it whole")
        old = target[key] = {}
    _set_field(old, rest, value, path)


def _unknown_path(path: str, why: str) -> UserError:
    return UserError(f"{path}: there is no such field to set: {why}", code="bad_spec", field=path)


MAX_CELLS = 200  # pre-trainings of a study
DIGITS = 4  # of a drawn number: enough for any learning rate, and it can be read


def sample_settings(search: GridSearch | RandomSearch) -> list[dict[str, Any]]:
    """{dotted field: value} of every trial, the same for the same seed; a grid has one trial without fields.

    Each trial has its own random stream, so more trials begin with the same ones. Equal settings are tried once.
    """
    if isinstance(search, GridSearch):
        return [{}]
    settings: list[dict[str, Any]] = []
    for trial in range(search.trials):
        stream = random.Random(f"{search.seed}/{trial}")  # noqa: S311
        setting = {field: _sample_parameter(stream, search.parameters[field]) for field in sorted(search.parameters)}
        if setting not in settings:
            settings.append(setting)
    return settings


def _sample_parameter(stream: random.Random, parameter: ChoiceSpec | RangeSpec) -> Any:
    if isinstance(parameter, ChoiceSpec):
        return stream.choice(parameter.values)
    low, high = parameter.low, parameter.high
    if parameter.kind == "log-uniform":
        value = math.exp(stream.uniform(math.log(low), math.log(high)))
    else:
        value = stream.uniform(low, high)
    if isinstance(low, int) and isinstance(high, int):
        return min(max(round(value), low), high)
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


Setting = dict[str, Any]
Labels = dict[str, str]
OWN_FIELDS = {"seed": "the study's own field seeds", "preset": "pretrain.preset, which is the base of all rows"}


@dataclass(frozen=True)
class StudyRow:
    """One combination of the axes' variants and, with a search, one of its trials.

    Attributes:
        labels: {axis: variant}; of a trial also {"trial": "t01"}.
        parameters: {dotted field: value} sampled by the search.
        overlays: partial pretrain specs, in the order in which they overlay the base.
    """

    labels: Labels
    parameters: Setting
    overlays: tuple[Setting, ...]


def study_rows(study: StudySpec) -> list[StudyRow]:
    """Every combination, in the order of the axes; a search is one axis more."""
    settings = sample_settings(study.search)
    count = math.prod(len(axis.variants) for axis in study.axes) * len(settings) * len(study.seeds)
    if count > MAX_CELLS:
        message = f"the study comes to {count:,} pre-trainings, more than {MAX_CELLS}; take variants or seeds away"
        raise UserError(message, code="too_large", field="seeds")
    overlays = [
        (f"axes.{a}.variants.{v}.spec", variant.spec)
        for a, axis in enumerate(study.axes)
        for v, variant in enumerate(axis.variants)
    ]
    for field, overlay in [*overlays, ("search.parameters", settings[0])]:
        for name in OWN_FIELDS.keys() & overlay.keys():
            raise UserError(f"{field}.{name}: set {OWN_FIELDS[name]} instead", code="bad_spec", field=f"{field}.{name}")
    rows = []
    for variants in itertools.product(*(axis.variants for axis in study.axes)):
        labels = {axis.name: variant.name for axis, variant in zip(study.axes, variants, strict=True)}
        for number, setting in enumerate(settings, start=1):
            drawn = {TRIAL: f"t{number:02d}"} if setting else {}
            rows.append(StudyRow({**labels, **drawn}, setting, (*(variant.spec for variant in variants), setting)))
    return rows


def format_labels(labels: Labels) -> str:
    """Labels as ``axis=variant axis=variant``."""
    return " ".join(f"{axis}={name}" for axis, name in labels.items())


def pretrain_spec(study: StudySpec, row: StudyRow, seed: int) -> PretrainSpec:
    """Complete spec of a row: the base, overlaid by the row's variants and sampled fields, then the seed."""
    base = _base_fields(study)
    try:
        return _parse_overlaid(base, *row.overlays, {"seed": seed})
    except UserError as error:
        raise _locate_error(study, base, row, error) from None


def resolve_presets(study: StudySpec) -> StudySpec:
    """The study with its presets filled in."""
    return study.model_copy(update={"preset": None, "pretrain": _base_fields(study)})


def evaluate_spec(study: StudySpec, encoder: str = "none") -> EvaluateSpec:
    """Evaluation of an encoder of the study."""
    if "encoder" in study.evaluate:
        raise UserError("evaluate.encoder: the study puts the encoders in", code="bad_spec", field="evaluate.encoder")
    try:
        return cast(EvaluateSpec, parse_spec("evaluate", {**apply_overlay({}, study.evaluate), "encoder": encoder}))
    except UserError as error:
        raise _prefix_field("evaluate", error) from None


def _base_fields(study: StudySpec) -> Setting:
    given = apply_overlay({}, study.pretrain)
    name = given.pop("preset", None)
    if name is None:
        return given
    try:
        parse_spec("pretrain", {"preset": name})
    except UserError as error:
        raise _prefix_field("pretrain", error) from None
    return merge_objects(presets("pretrain")[name], given)


def _parse_overlaid(base: Setting, *overlays: Setting) -> PretrainSpec:
    for overlay in overlays:
        base = apply_overlay(base, overlay)
    return cast(PretrainSpec, parse_spec("pretrain", base))


def _locate_error(study: StudySpec, base: Setting, row: StudyRow, error: UserError) -> UserError:
    """``error`` with its field in the study: the base, or the overlay that causes it alone, else the row."""
    fields = {"pretrain": {}, "search.parameters": row.parameters}
    for a, axis in enumerate(study.axes):
        for v, variant in enumerate(axis.variants):
            if variant.name == row.labels[axis.name]:
                fields[f"axes.{a}.variants.{v}.spec"] = variant.spec
    for field, overlay in fields.items():
        try:
            _parse_overlaid(base, overlay)
        except UserError as alone:
            if alone.message == error.message or field == "pretrain":
                return _prefix_field(field, error)
    return UserError(f"{format_labels(row.labels)}: {error.message}", code=error.code, field="axes")


def _prefix_field(field: str, error: UserError) -> UserError:
    """``error`` with ``field`` before its own field, in its message too."""
    if error.field:
        return UserError(f"{field}.{error.message}", code=error.code, field=f"{field}.{error.field}")
    return UserError(f"{field}: {error.message}", code=error.code, field=field)


CellKey = tuple[frozenset[tuple[str, str]], int]  # labels and seed: identity of a cell within its study


@dataclass(frozen=True)
class PlannedCell:
    """One pre-training of a study.

    Attributes:
        labels, parameters: of its row.
        hash: of the spec; equal for equal work.
    """

    labels: Labels
    parameters: Setting
    seed: int
    spec: PretrainSpec
    hash: str

    @property
    def key(self) -> CellKey:
        return frozenset(self.labels.items()), self.seed


def expand_study(study: StudySpec) -> list[PlannedCell]:
    """The cells of a study, seed by seed, so that all rows of the table fill together."""
    evaluation, rows = evaluate_spec(study), study_rows(study)
    cells, known = [], dict[str, PlannedCell]()
    for seed, row in itertools.product(study.seeds, rows):
        spec = pretrain_spec(study, row, seed)
        cell = PlannedCell(row.labels, row.parameters, seed, spec, spec_hash("pretrain", spec))
        cells.append(cell)
        _check_monitor(cell, evaluation)
        other = known.setdefault(cell.hash, cell)
        if other is not cell:
            raise UserError(
                f"{format_labels(other.labels)} and {format_labels(cell.labels)} come to the same run; remove one",
                field="axes",
            )
    return cells


def _check_monitor(cell: PlannedCell, evaluation: EvaluateSpec) -> None:
    """The weights of an encoder must not be chosen on images that the study reports."""
    monitor = cell.spec.monitor
    if monitor is None or monitor.export != "best" or VIEW_RECORDS[monitor.view] != "pairs":
        return
    if monitor.dataset == evaluation.dataset and monitor.split in evaluation.splits:
        row = format_labels(cell.labels)
        raise UserError(
            f"pretrain.monitor.split: {monitor.split} is what evaluate reports{f' ({row})' if row else ''}; choose "
            "weights on another split, such as val",
            code="bad_spec", field="pretrain.monitor.split",
        )  # fmt: skip


def apply_addition(study: StudySpec, addition: AdditionSpec) -> StudySpec:
    """``study``, which has no preset, with the seeds, variants and trials of ``addition``; idempotent."""
    axes = {axis.name: axis for axis in study.axes}
    for index, new in enumerate(addition.axes):
        old = axes.get(new.name)
        if old is None:
            raise UserError(
                f"the study has no axis {new.name!r}, and a new one would change every row; choose from "
                f"{', '.join(axes) or 'none'}, or start a new study",
                code="bad_spec", field=f"axes.{index}.name",
            )  # fmt: skip
        variants = {variant.name: variant for variant in old.variants}
        for number, variant in enumerate(new.variants):
            if variants.setdefault(variant.name, variant) != variant:
                raise UserError(
                    f"axis {old.name} has another variant {variant.name!r} already; give the new one another name",
                    code="bad_spec", field=f"axes.{index}.variants.{number}.name",
                )  # fmt: skip
        axes[new.name] = AxisSpec(name=old.name, variants=tuple(variants.values()))
    search = study.search
    if addition.trials is not None:
        if not isinstance(search, RandomSearch):
            raise UserError("trials: only a random search has trials to add", code="bad_spec", field="trials")
        search = search.model_copy(update={"trials": max(addition.trials, search.trials)})
    seeds = tuple(dict.fromkeys((*study.seeds, *addition.seeds)))
    changed = study.model_copy(update={"seeds": seeds, "axes": tuple(axes.values()), "search": search})
    return parse_as(StudySpec, changed.model_dump(mode="json"))


# ---- references to encoders

TRAINING_FIELDS = ("model.init",)
Replacement = Callable[[str], str]


def replace_encoders(study: StudySpec, replacement: Replacement) -> StudySpec:
    """The study with ``replacement`` of each id or name of an encoder, in all parts of it."""
    search, evaluation = study.search, apply_overlay({}, study.evaluate)
    if isinstance(search, RandomSearch):
        parameters = dict(search.parameters)
        for field, parameter in search.parameters.items():
            if isinstance(parameter, ChoiceSpec):
                values = tuple(_replace_fields({field: each}, replacement)[field] for each in parameter.values)
                parameters[field] = parameter.model_copy(update={"values": values})
        search = search.model_copy(update={"parameters": parameters})
    for field, reference in evaluate_spec(study).references().further_encoders.items():
        if (new := replacement(reference)) != reference:
            evaluation = apply_overlay(evaluation, {field: new})
    changes: dict[str, Any] = {
        "pretrain": _replace_fields(study.pretrain, replacement),
        "axes": replace_in_axes(study.axes, replacement),
        "evaluate": evaluation,
        "search": search,
    }
    return study.model_copy(update=changes)


def replace_in_axes(axes: Iterable[AxisSpec], replacement: Replacement) -> tuple[AxisSpec, ...]:
    """The axes with ``replacement`` of each reference in their variants."""

    def replaced(variant: VariantSpec) -> VariantSpec:
        return variant.model_copy(update={"spec": _replace_fields(variant.spec, replacement)})

    return tuple(axis.model_copy(update={"variants": tuple(map(replaced, axis.variants))}) for axis in axes)


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
