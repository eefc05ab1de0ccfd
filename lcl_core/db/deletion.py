"""Deletion of encoders and datasets, and renaming of encoders, refused while something uses them.

The rows are deleted in the caller's transaction; the caller removes the folders that the service made after the
commit. A folder that a crash in between leaves is garbage, which no row names (``lcl_core.db.garbage``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import ColumnElement, Text, cast, func, or_, select
from sqlalchemy.orm import Session, aliased

from lcl_core.common.errors import Conflict
from lcl_core.common.paths import is_url
from lcl_core.db.datasets import PRODUCT_OWNER, SAMPLE_DATASET, list_versions
from lcl_core.db.models import CollectionRow, Dataset, EncoderRow, Run, Study, StudyCell
from lcl_core.db.states import FINISHED, State
from lcl_core.db.studies import study_spec
from lcl_core.db.uploads import discard_folder
from lcl_core.specs.base import slug
from lcl_core.specs.parsing import AnySpec, parse_spec
from lcl_core.specs.study import StudySpec
from lcl_core.studies.trials import evaluate_spec, expand_study

_FINISHED = [state.value for state in FINISHED]
_MAX_LISTED = 5  # objects that a message names


def delete_encoder(
    session: Session, row: EncoderRow, visible_to: str | None = None, *, welcome: bool = False
) -> list[str]:
    """Delete the row. Returns: stored paths of the folders to remove after the commit.

    Args:
        visible_to: owner whose runs and studies the error may name; None: all owners.
        welcome: whether bundled encoders are registered at each start.

    Raises: UserError ``conflict``.
    """
    if row.owner == PRODUCT_OWNER and welcome:
        message = f"encoder {row.name!r} comes with the product and is registered at each start; set LCL_WELCOME=0"
        raise Conflict(message)
    reasons = _encoder_users(session, row, {row.id, row.name}, visible_to)
    query = select(CollectionRow.name).where(CollectionRow.encoder_id == row.id).order_by(CollectionRow.id)
    made = list(session.scalars(query))
    if made:
        more = f" and {len(made) - _MAX_LISTED} more" if len(made) > _MAX_LISTED else ""
        shown = ", ".join(made[:_MAX_LISTED]) + more
        reasons.append(f"collections were made with it ({shown}): delete them, or index them anew with another encoder")
    _raise_if_used("encoder", row.name, reasons)
    discard_folder(session, row.path)
    session.delete(row)
    session.flush()
    return _managed_only([row.path])


def check_encoder_name_unused(session: Session, row: EncoderRow, visible_to: str | None = None) -> None:
    """Check that no unfinished run or study refers to the encoder by its name, which is about to change.

    Raises: UserError ``conflict``.
    """
    _raise_if_used("encoder", row.name, _encoder_users(session, row, {row.name}, visible_to))


def _encoder_users(session: Session, row: EncoderRow, names: set[str], visible_to: str | None) -> list[str]:
    """Reasons why the encoder is needed under one of ``names``, or under the name of a run that becomes one of them."""
    runs = _unfinished_runs_using(session, lambda spec: spec.references().encoders.values(), names)
    studies = _active_studies_using(session, lambda spec: _is_among(_encoders_of_study(spec), names), row.run_id)
    return _usage_reasons(runs, studies, visible_to)


def delete_dataset(session: Session, row: Dataset, visible_to: str | None = None) -> list[str]:
    """Delete the row with its versions. Files that the service did not make stay.

    Returns: stored paths of the folders to remove after the commit. Args: as ``delete_encoder``.

    Raises: UserError ``conflict``.
    """
    if row.name == SAMPLE_DATASET:
        message = f"dataset {SAMPLE_DATASET!r} comes with the product and is registered at each start; it stays"
        raise Conflict(message)
    paths = _managed_only([row.path, *(version.path for version in list_versions(session, row.name))])
    runs = _unfinished_runs_using(session, lambda spec: spec.references().datasets.values(), {row.name})
    studies = _active_studies_using(session, lambda spec: row.name in _datasets_of_study(spec), None)
    reasons = _usage_reasons(runs, studies, visible_to)
    _raise_if_used("dataset", row.name, reasons)
    for path in paths:
        discard_folder(session, path)
    session.delete(row)
    session.flush()
    return paths


def _raise_if_used(noun: str, name: str, reasons: Sequence[str]) -> None:
    if reasons:
        raise Conflict(f"{noun} {name!r} is in use: {'; '.join(reasons)}")


def _usage_reasons(
    runs: Sequence[tuple[str, str]], studies: Sequence[tuple[str, str]], visible_to: str | None
) -> list[str]:
    """One reason for the runs and one for the studies, of (id, owner). Those of other owners are only counted."""
    reasons = []
    for noun, plural, users in (("run", "runs", runs), ("study", "studies", studies)):
        visible = [object_id for object_id, owner in users if visible_to in (None, owner)]
        shown = [f"{noun} {object_id}" for object_id in visible[:_MAX_LISTED]]
        if len(visible) > _MAX_LISTED:
            shown.append(f"{len(visible) - _MAX_LISTED} more")
        if hidden := len(users) - len(visible):
            shown.append(f"a {noun} of another owner" if hidden == 1 else f"{hidden} {plural} of other owners")
        if shown:
            reasons.append(f"needed by {', '.join(shown)}: cancel it or wait for its end")
    return reasons


def _is_among(references: Iterable[str], names: set[str]) -> bool:
    """Whether one of the references is one of the names, or the name of a run that becomes one of them."""
    return any(reference in names or slug(reference) in names for reference in references)


def _unfinished_runs_using(
    session: Session, references: Callable[[AnySpec], Iterable[str]], names: set[str]
) -> list[tuple[str, str]]:
    """(id, owner) of the unfinished runs with one of ``names`` among the ``references`` of their spec."""
    query = select(Run.id, Run.owner, Run.kind, Run.spec).where(Run.state.not_in(_FINISHED)).order_by(Run.id)
    users = []
    for run_id, owner, kind, spec in session.execute(query.where(_may_name(session, names))).tuples():
        if _is_among(references(parse_spec(kind, spec)), names):
            users.append((run_id, owner))
    return users


def _may_name(session: Session, names: Iterable[str]) -> ColumnElement[bool]:
    """Whether the text of a run's spec may have one of the names, or a text of which ``slug`` makes one of them.

    The specs of thousands of queued runs would take seconds to parse, in which nobody else could write. ``slug`` keeps
    the words of ASCII text; what becomes of other text is found by parsing.
    """
    written = cast(Run.spec, Text)
    has_words = [written.like(f"%{'%'.join(re.findall('[A-Za-z0-9]+', name))}%") for name in names]
    is_postgres = session.get_bind().dialect.name == "postgresql"
    not_ascii = (
        func.octet_length(written) > func.length(written) if is_postgres else written.contains("\\u")
    )  # as JSON escapes it
    return or_(*has_words, not_ascii)


def _active_studies_using(
    session: Session, reads: Callable[[StudySpec], bool], made_by: str | None
) -> list[tuple[str, str]]:
    """(id, owner) of the active studies whose spec ``reads`` the object, or that will evaluate the run ``made_by``."""
    evaluation = aliased(Run)
    to_evaluate = StudyCell.evaluation_id.is_(None) & (Run.state == State.SUCCEEDED.value)
    active = or_(to_evaluate, Run.state.not_in(_FINISHED), evaluation.state.not_in(_FINISHED))
    query = (
        select(Study, to_evaluate & (StudyCell.run_id == made_by))
        .join(StudyCell, StudyCell.study_id == Study.id)
        .join(Run, Run.id == StudyCell.run_id)
        .outerjoin(evaluation, evaluation.id == StudyCell.evaluation_id)
        .where(Study.cancelled_at.is_(None), active)
        .order_by(Study.id)
    )
    uses: dict[Study, bool] = {}  # one row of the query for each cell
    for study, evaluates in session.execute(query).tuples():
        if study not in uses:
            uses[study] = reads(study_spec(study))
        uses[study] |= evaluates
    return [(study.id, study.owner) for study, is_user in uses.items() if is_user]


def _encoders_of_study(spec: StudySpec) -> set[str]:
    trained = {name for cell in expand_study(spec) for name in cell.spec.references().encoders.values()}
    return trained | set(evaluate_spec(spec).references().further_encoders.values())


def _datasets_of_study(spec: StudySpec) -> set[str]:
    trained = {name for cell in expand_study(spec) for name in cell.spec.references().datasets.values()}
    return trained | set(evaluate_spec(spec).references().datasets.values())


def _managed_only(paths: Iterable[str]) -> list[str]:
    """Those paths whose folders the service made."""
    return [path for path in dict.fromkeys(paths) if not os.path.isabs(path) and not is_url(path)]
