"""The lines of a study's table, before they have seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lcl_core.errors import UserError
from lcl_core.specs import HalvingSearch, StudySpec
from lcl_core.specs.study import TRIAL
from lcl_core.studies.draws import draws

Setting = dict[str, Any]
Labels = dict[str, str]
OWN_FIELDS = {"seed": "the study's own field seeds", "preset": "pretrain.preset, which is the base of all rows"}


@dataclass(frozen=True)
class Row:
    """One combination of the axes' variants, and with a search one of its trials.

    Attributes:
        labels: {axis: variant}; of a trial also {"trial": "t01"}.
        parameters: {dotted field: value} that the search drew.
        overlays: partial pretrain specs in the order in which they are laid over the base.
    """

    labels: Labels
    parameters: Setting
    overlays: tuple[Setting, ...]


def rows_of(study: StudySpec) -> list[Row]:
    """Every combination, in the order of the axes; a search is one axis more.

    Raises: UserError ``too_many_cells``, or ``bad_spec`` for fields that the study sets itself.
    """
    check_size(study, math.prod(len(axis.variants) for axis in study.axes) * len(study.seeds))
    _check_fields(study)
    return list(_combinations(study))


def words_of(labels: Labels) -> str:
    """Labels for people."""
    return " ".join(f"{axis}={name}" for axis, name in labels.items())


def check_size(study: StudySpec, count: int) -> None:
    """Raises: UserError ``too_many_cells``."""
    if count > study.max_cells:
        raise UserError(
            f"the study comes to {count:,} pre-trainings, more than max_cells {study.max_cells:,}; "
            "take variants or seeds away, or raise max_cells",
            code="too_many_cells",
            field="max_cells",
        )


def _combinations(study: StudySpec) -> Iterator[Row]:
    settings = draws(study.search)
    for variants in itertools.product(*(axis.variants for axis in study.axes)):
        labels = {axis.name: variant.name for axis, variant in zip(study.axes, variants, strict=True)}
        overlays = tuple(variant.spec for variant in variants)
        for number, setting in enumerate(settings, start=1):
            drawn = {TRIAL: f"t{number:02d}"} if setting else {}
            yield Row({**labels, **drawn}, setting, (*overlays, setting))


def _check_fields(study: StudySpec) -> None:
    own = {**OWN_FIELDS, **({"steps": "search.rungs"} if isinstance(study.search, HalvingSearch) else {})}
    places = [
        (f"axes.{a}.variants.{v}.spec", variant.spec)
        for a, axis in enumerate(study.axes)
        for v, variant in enumerate(axis.variants)
    ]
    places += [("search.parameters", setting) for setting in draws(study.search)[:1]]
    for place, fields in places:
        for name in own.keys() & fields.keys():
            raise UserError(f"{place}.{name}: set {own[name]} instead", code="bad_spec", field=f"{place}.{name}")
