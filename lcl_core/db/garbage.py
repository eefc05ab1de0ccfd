"""Deletion of encoders and datasets that nothing uses, and removal of what no row names any more.

What deletes or replaces a row records the folder in its transaction (``artifacts.discard_folder``). Folders, copies
in the artifact store and indexes on servers are removed after ``gc_grace_seconds``: a database that is restored from a
backup, or that has lost its last transactions, still finds what its rows name. A folder that an unfinished run reads
stays until that has ended. Uploads of clients are recorded when they begin, and removed once no dataset and no
unfinished run or study names them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog
from sqlalchemy import Text, cast, delete, or_, select, union
from sqlalchemy.orm import Session, aliased

from lcl_core.common.errors import Conflict, UserError
from lcl_core.common.files import remove_tree
from lcl_core.common.paths import is_url
from lcl_core.common.settings import Settings
from lcl_core.db.artifacts import ANY_HOME, SERVER, STORE, Artifacts, discard_folder, home_id
from lcl_core.db.datasets import PRODUCT_OWNER, SAMPLE_DATASET, list_versions
from lcl_core.db.models import (
    OUTPUT_FOLDERS,
    UPLOAD_PREFIX,
    UPLOADS_FOLDER,
    CollectionRow,
    Dataset,
    DatasetVersion,
    EncoderRow,
    Garbage,
    Run,
    Study,
    StudyCell,
)
from lcl_core.db.session import Database, now
from lcl_core.db.states import FINISHED, State
from lcl_core.specs.base import slug
from lcl_core.specs.parsing import AnySpec, parse_as, parse_spec
from lcl_core.specs.study import StudySpec
from lcl_core.studies.trials import evaluate_spec
from lcl_core.vector_indexes import IndexLocation, drop_index

ROUND_SECONDS = 3600.0  # between two rounds
_ROUND = 500  # folders that are removed in one round
_UPLOAD_ID = re.compile(rf"{UPLOAD_PREFIX}_[0-9a-z]{{18}}")
_FINISHED = [state.value for state in FINISHED]
_MAX_LISTED = 5  # objects that a message names
log = structlog.get_logger(__name__)


def delete_encoder(
    session: Session, row: EncoderRow, visible_to: str | None = None, *, welcome: bool = False
) -> list[str]:
    """Delete the row. Returns: stored paths of the folders to remove after the commit.

    ``visible_to``: owner whose runs and studies the error may name; None: all owners.
    """
    if row.owner == PRODUCT_OWNER and welcome:
        message = f"encoder {row.name!r} comes with the product and is registered at each start; set LCL_WELCOME=0"
        raise Conflict(message)
    names = session.scalars(select(CollectionRow.name).where(CollectionRow.encoder_id == row.id))
    users = _users(session, "encoder", {row.id, row.name}, visible_to, row.run_id)
    _raise_if_used("encoder", row.name, [*users, *(f"collection {name!r}" for name in names)])
    discard_folder(session, row.path)
    session.delete(row)
    session.flush()
    return _managed_only([row.path])


def check_encoder_name_unused(session: Session, row: EncoderRow, visible_to: str | None = None) -> None:
    """Check that no unfinished run or study refers to the encoder by its name, which is about to change."""
    _raise_if_used("encoder", row.name, _users(session, "encoder", {row.name}, visible_to, row.run_id))


def delete_dataset(session: Session, row: Dataset, visible_to: str | None = None) -> list[str]:
    """Delete the row with its versions. Files that the service did not make stay.

    Returns: stored paths of the folders to remove after the commit. Args: as ``delete_encoder``.
    """
    if row.name == SAMPLE_DATASET:
        message = f"dataset {SAMPLE_DATASET!r} comes with the product and is registered at each start; it stays"
        raise Conflict(message)
    _raise_if_used("dataset", row.name, _users(session, "dataset", {row.name}, visible_to))
    paths = _managed_only([row.path, *(version.path for version in list_versions(session, row.name))])
    for path in paths:
        discard_folder(session, path)
    session.delete(row)
    session.flush()
    return paths


def _raise_if_used(noun: str, name: str, users: Sequence[str]) -> None:
    if users:
        shown = list(dict.fromkeys(users))
        more = f" and {len(shown) - _MAX_LISTED} more" if len(shown) > _MAX_LISTED else ""
        message = f"{noun} {name!r} is in use: needed by {', '.join(shown[:_MAX_LISTED])}{more}"
        raise Conflict(f"{message}; cancel it, wait for its end, or delete the collection")


def _users(
    session: Session, noun: str, names: set[str], visible_to: str | None, made_by: str | None = None
) -> list[str]:
    """Unfinished runs, and active studies by their evaluations to come, that refer to one of ``names`` as ``noun``; and
    the studies that will evaluate the encoder that the run ``made_by`` has made.
    """

    def described(noun: str, object_id: str, owner: str) -> str:
        return f"{noun} {object_id}" if visible_to in (None, owner) else f"a {noun} of another owner"

    def refers(spec: AnySpec) -> bool:
        references = spec.references()
        texts = (references.encoders if noun == "encoder" else references.datasets).values()
        return any(text in names or slug(text) in names for text in texts)

    # the database searches all specs; only those are read that may have the name, or a text whose slug it is: slugs
    # have - for other characters, and lack accents, which SQLite's JSON has as \u
    text, patterns = cast(Run.spec, Text), [re.sub("[^A-Za-z0-9]+", "%", name) for name in names]
    may_have_it = or_(text.contains("\\u", autoescape=True), *(text.like(f"%{pattern}%") for pattern in patterns))
    query = select(Run.id, Run.owner, Run.kind, Run.spec).where(Run.state.not_in(_FINISHED), may_have_it)
    users = [
        described("run", id_, owner)
        for id_, owner, kind, spec in session.execute(query.order_by(Run.id)).tuples()
        if refers(parse_spec(kind, spec))
    ]
    cells = select(StudyCell.study_id).where(StudyCell.evaluation_id.is_(None), StudyCell.run_id == made_by)
    to_evaluate = set(session.scalars(cells))
    for study in _active_studies(session):
        if study.id in to_evaluate or refers(evaluate_spec(parse_as(StudySpec, study.spec))):
            users.append(described("study", study.id, study.owner))
    return users


def _active_studies(session: Session) -> Sequence[Study]:
    """Studies with unfinished runs, or encoders that are not evaluated yet."""
    evaluation = aliased(Run)
    to_evaluate = StudyCell.evaluation_id.is_(None) & (Run.state == State.SUCCEEDED.value)
    active = (
        select(StudyCell.study_id)
        .join(Run, Run.id == StudyCell.run_id)
        .outerjoin(evaluation, evaluation.id == StudyCell.evaluation_id)
        .where(or_(to_evaluate, Run.state.not_in(_FINISHED), evaluation.state.not_in(_FINISHED)))
    )
    query = select(Study).where(Study.cancelled_at.is_(None), Study.id.in_(active)).order_by(Study.id)
    return session.scalars(query).all()


def _managed_only(paths: Iterable[str]) -> list[str]:
    """Those paths whose folders the service made."""
    return [path for path in dict.fromkeys(paths) if not os.path.isabs(path) and not is_url(path)]


def collect_garbage(database: Database, settings: Settings, artifacts: Artifacts) -> int:
    """Remove what this process can of the garbage that is due. Several processes may do so at once.

    Returns: the number of removed folders, copies and indexes. Raises: UNREACHABLE.
    """
    homes = [home_id(artifacts.home), ANY_HOME, STORE, SERVER]
    with database.reading() as session:
        before = now(session) - timedelta(seconds=settings.gc_grace_seconds)
        query = select(Garbage.home, Garbage.path).where(Garbage.home.in_(homes), Garbage.seen_at <= before)
        due = session.execute(query.order_by(Garbage.seen_at).limit(_ROUND)).tuples().all()
        named = _named(session, [path for _, path in due])
    removed = 0
    for home, path in due:
        if path in named:
            continue
        try:
            if home == STORE and settings.artifacts:
                artifacts.store.remove(path)
            elif home == SERVER:
                if not drop_index(path, IndexLocation(settings=settings)):
                    continue  # its server does not answer
            elif home != STORE:
                remove_tree(artifacts.home / path)
        except (UserError, OSError) as error:  # due again in the next round
            log.warning("garbage_not_removed", path=path, error=str(error))
            continue
        with database.session() as session:
            session.execute(delete(Garbage).where(Garbage.home == home, Garbage.path == path))
        log.info("collected", home=home, path=path)
        removed += 1
    for folder in OUTPUT_FOLDERS:
        for hidden in (artifacts.home / folder).glob(".*"):  # copies that a process did not finish before it was killed
            with suppress(FileNotFoundError):
                if hidden.stat().st_mtime < time.time() - settings.gc_grace_seconds:
                    remove_tree(hidden)
    return removed


def _named(session: Session, paths: Sequence[str]) -> set[str]:
    """Those paths that a row names again or an unfinished run needs."""
    if not paths:
        return set()
    tables = (EncoderRow, CollectionRow, Dataset, DatasetVersion)
    named = set(session.scalars(union(*(select(table.path).where(table.path.in_(paths)) for table in tables))))
    named |= set(session.scalars(select(CollectionRow.vectors).where(CollectionRow.vectors.in_(paths))))
    inputs = session.scalars(select(Run.inputs).where(Run.state.not_in(FINISHED), Run.inputs.is_not(None)))
    named |= {path for read in inputs for path in (read or {}).get("folders", ())}
    if any(path.startswith(UPLOADS_FOLDER) for path in paths):
        used = _used_uploads(session)
        named |= {path for path in paths if path.rpartition("/")[2] in used}
    return named


def _used_uploads(session: Session) -> set[str]:
    """Ids of the uploads that a dataset, or the spec of an unfinished run or study, names by a path inside."""
    paths = session.scalars(
        union(*(select(table.path).where(table.path.contains(UPLOADS_FOLDER)) for table in (Dataset, DatasetVersion)))
    )
    runs = session.scalars(select(cast(Run.spec, Text)).where(Run.state.not_in(FINISHED)))
    # the evaluations of a study are submitted after its pre-trainings
    studies = (str(study.spec) for study in _active_studies(session))
    return {upload for texts in (paths, runs, studies) for text in texts for upload in _UPLOAD_ID.findall(text)}
