"""Complete specs: what a row with a seed trains, and how what comes out is examined."""

from __future__ import annotations

from typing import cast

from lcl_core.errors import UserError
from lcl_core.specs import EvaluateSpec, HalvingSearch, PretrainSpec, StudySpec, parse_spec, presets
from lcl_core.specs.presets import merged
from lcl_core.studies.overlay import laid_over
from lcl_core.studies.rows import Row, Setting, words_of


def pretrain_of(study: StudySpec, row: Row, seed: int, rung: int = 0) -> PretrainSpec:
    """The base, the row's variants and drawn fields over it, then the seed (and a rung's steps).

    Raises: UserError ``bad_spec``, naming the variant where one alone is to blame.
    """
    own: Setting = {"seed": seed}
    if isinstance(study.search, HalvingSearch):
        rungs = study.search.rungs
        own["steps"] = rungs[min(rung, len(rungs) - 1)]  # finalists train no longer than the last rung
    base = _base_of(study)
    try:
        return _parsed(base, *row.overlays, own)
    except UserError as error:
        raise _blamed(study, base, row, error) from None


def settled(study: StudySpec) -> StudySpec:
    """The same study without any preset, whose meaning another version might change between its cells.

    Raises: UserError ``bad_spec`` for a preset of the base that is not known.
    """
    return study.model_copy(update={"preset": None, "pretrain": _base_of(study)})


def evaluation_of(study: StudySpec, rung: int, encoder: str) -> EvaluateSpec:
    """How an encoder that came out of this rung is examined: by the search's validation until it is a finalist."""
    if isinstance(study.search, HalvingSearch) and rung < len(study.search.rungs):
        return _filled("search.validation", study.search.validation, encoder)
    return _filled("evaluate", study.evaluate, encoder)


def evaluations_of(study: StudySpec) -> dict[str, EvaluateSpec]:
    """{place in the study: template} of everything that it examines encoders by, with an encoder that is none.

    Raises: UserError ``bad_spec``, also when trials would be chosen on what is reported.
    """
    examiner = _filled("evaluate", study.evaluate, "none")
    if not isinstance(study.search, HalvingSearch):
        return {"evaluate": examiner}
    chooser = _filled("search.validation", study.search.validation, "none")
    shared = set(chooser.splits) & set(examiner.splits)
    if shared and chooser.dataset == examiner.dataset:
        raise UserError(
            f"search.validation.splits: {', '.join(sorted(shared))} is what evaluate reports; choose trials on "
            "another split, such as val",
            code="bad_spec",
            field="search.validation.splits",
        )
    return {"evaluate": examiner, "search.validation": chooser}


def _base_of(study: StudySpec) -> Setting:
    given = laid_over({}, study.pretrain)
    name = given.pop("preset", None)
    if name is None:
        return given
    try:
        parse_spec("pretrain", {"preset": name})
    except UserError as error:
        raise _placed("pretrain", error) from None
    return merged(presets("pretrain")[name], given)


def _parsed(base: Setting, *overlays: Setting) -> PretrainSpec:
    for overlay in overlays:
        base = laid_over(base, overlay)
    return cast(PretrainSpec, parse_spec("pretrain", base))


def _blamed(study: StudySpec, base: Setting, row: Row, error: UserError) -> UserError:
    """The complaint with its place in the study: the base, or the variant that causes it alone, else the row."""
    if _complaint(base) is not None:
        return _placed("pretrain", error)
    for a, axis in enumerate(study.axes):
        for v, variant in enumerate(axis.variants):
            if variant.name == row.labels[axis.name] and _complaint(base, variant.spec) == error.message:
                return _placed(f"axes.{a}.variants.{v}.spec", error)
    if _complaint(base, row.parameters) == error.message:
        return _placed("search.parameters", error)
    return UserError(f"{words_of(row.labels)}: {error.message}", code=error.code, field="axes")


def _complaint(base: Setting, *overlays: Setting) -> str | None:
    try:
        _parsed(base, *overlays)
    except UserError as error:
        return error.message
    return None


def _filled(place: str, given: Setting, encoder: str) -> EvaluateSpec:
    if "encoder" in given:
        raise UserError(f"{place}.encoder: the study puts the encoders in", code="bad_spec", field=f"{place}.encoder")
    try:
        return cast(EvaluateSpec, parse_spec("evaluate", {**laid_over({}, given), "encoder": encoder}))
    except UserError as error:
        raise _placed(place, error) from None


def _placed(place: str, error: UserError) -> UserError:
    """The same complaint; its message begins with the field, where it has one."""
    if error.field:
        return UserError(f"{place}.{error.message}", code=error.code, field=f"{place}.{error.field}")
    return UserError(f"{place}: {error.message}", code=error.code, field=place)
