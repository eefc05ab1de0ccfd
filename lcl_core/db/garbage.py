"""Removal of folders, copies in the artifact store and indexes on servers that no row names any more.

What deletes or replaces a row records the folder in the same transaction (``uploads.discard_folder``). It is removed
after ``gc_grace_seconds``: a database that is restored from a backup, or that has lost its last transactions, still
finds what its rows name. A folder that an unfinished run reads stays until that has ended. Uploads of clients are
recorded when they begin, and removed once no dataset and no unfinished run or study names them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Text, cast, delete, select, union
from sqlalchemy.orm import InstrumentedAttribute, Session

from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree
from lcl_core.common.settings import Settings
from lcl_core.db.artifacts import Artifacts, home_id
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
)
from lcl_core.db.session import Database, now
from lcl_core.db.states import FINISHED
from lcl_core.db.studies import ENDED_STATES, study_statuses
from lcl_core.db.uploads import ANY_HOME, SERVER, STORE
from lcl_core.vector_indexes import IndexLocation, drop_index

ROUND_SECONDS = 3600.0  # between two rounds
_ROUND = 500  # folders that are removed in one round
_UPLOAD_ID = re.compile(rf"{UPLOAD_PREFIX}_[0-9a-z]{{18}}")
log = structlog.get_logger(__name__)


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
            if not _remove(settings, artifacts, home, path):
                continue
        except (UserError, OSError) as error:  # due again in the next round
            log.warning("garbage_not_removed", path=path, error=str(error))
            continue
        with database.session() as session:
            session.execute(delete(Garbage).where(Garbage.home == home, Garbage.path == path))
        log.info("collected", home=home, path=path)
        removed += 1
    _remove_unfinished_copies(artifacts, settings.gc_grace_seconds)
    return removed


def _remove(settings: Settings, artifacts: Artifacts, home: str, path: str) -> bool:
    """False: the server of the index does not answer."""
    if home == SERVER:
        return drop_index(path, IndexLocation(settings=settings))
    if home == STORE:
        if settings.artifacts:
            artifacts.store.remove(path)
    else:
        remove_tree(artifacts.home / path)
    return True


def _remove_unfinished_copies(artifacts: Artifacts, grace_seconds: float) -> None:
    """Hidden folders beside the outputs: copies that a process did not finish before it was killed."""
    for folder in OUTPUT_FOLDERS:
        for hidden in (artifacts.home / folder).glob(".*"):
            with suppress(FileNotFoundError):
                if hidden.stat().st_mtime < time.time() - grace_seconds:
                    remove_tree(hidden)


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
    paths = union(
        *(select(table.path).where(table.path.contains(UPLOADS_FOLDER)) for table in (Dataset, DatasetVersion))
    )
    runs = select(cast(Run.spec, Text)).where(Run.state.not_in(FINISHED), _names_upload(Run.spec))
    # the evaluations of a study are submitted after its pre-trainings
    studies = session.scalars(select(Study).where(Study.cancelled_at.is_(None), _names_upload(Study.spec))).all()
    statuses = study_statuses(session, studies) if studies else {}
    active = [str(study.spec) for study in studies if statuses[study.id].state not in ENDED_STATES]
    texts: Iterable[str] = [*session.scalars(paths), *session.scalars(runs), *active]
    return {upload for text in texts for upload in _UPLOAD_ID.findall(text)}


def _names_upload(spec: InstrumentedAttribute[dict[str, Any]]) -> ColumnElement[bool]:
    return cast(spec, Text).contains(f"{UPLOAD_PREFIX}_", autoescape=True)
