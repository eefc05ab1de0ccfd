"""Preparation of a claimed run: inputs fetched from the artifact store, checkpoints copied from a parent run."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import stage
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.leases import Claim, renew_lease
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.registry import managed_paths
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from lcl_core.specs.parsing import parse_spec
from workers.logs import log_database_error
from workers.monitor import LEASE_SAFETY
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


def copy_parent_checkpoint(parent: RunDir, heir: RunDir) -> bool:
    """Give ``heir`` the checkpoints of ``parent`` (files share their bytes where the disk allows) and its metric lines.

    The checkpoints come last and whole: an attempt that is interrupted before finds none, and begins anew. So does a
    run whose parent's folder is gone; it does the same work, only more of it.

    Returns: whether there were any. Raises: OSError.
    """
    if not parent.checkpoints.is_dir() or not any(parent.checkpoints.iterdir()):
        log.warning("nothing_to_inherit", parent=parent.path.name)
        return False
    if parent.metrics_file.exists():
        shutil.copyfile(parent.metrics_file, heir.metrics_file)
    stage(parent.checkpoints, heir.checkpoints, link=True).publish()
    return True


_FETCH_SECONDS = 300.0
# what may be otherwise in a moment: the machine that made it is sending it still, or the store is away
_TRANSIENT_CODES = ("artifacts_pending", "store_unreachable")


class FetchInterrupted(Exception):
    """The run is wanted elsewhere, or by nobody, before its inputs were here."""


@contextmanager
def fetch_inputs(
    database: Database, settings: WorkerSettings, supply: Artifacts, claim: Claim, stopping: threading.Event
) -> Iterator[dict[str, Path]]:
    """Folders by their stored path that another home holds, and where they are here until the end of the block.

    Raises (on entry): Interrupted, StaleLease, UNREACHABLE; UserError for what does not come, or is not known.
    """
    errand = _LeaseKeeper(database, settings, claim, stopping)
    with ExitStack() as stack:
        yield {row.path: errand.bring(stack, supply, row) for row in _remote_inputs(database, supply, claim)}


def _remote_inputs(database: Database, supply: Artifacts, claim: Claim) -> list[ArtifactUpload]:
    if supply.holder is None:
        return []
    with database.reading() as session:
        stored = managed_paths(session, parse_spec(claim.kind, claim.spec))
        return [row for path in stored if (row := supply.find_remote_copy(session, path)) is not None]


class _LeaseKeeper:
    """Keeps the lease while something is fetched or waited for."""

    def __init__(self, database: Database, settings: WorkerSettings, claim: Claim, stopping: threading.Event) -> None:
        self._database, self._settings, self._claim, self._stopping = database, settings, claim, stopping
        self._renewed = time.monotonic()

    def bring(self, stack: ExitStack, supply: Artifacts, row: ArtifactUpload) -> Path:
        """Raises: as ``fetched_inputs``."""
        deadline = time.monotonic() + _FETCH_SECONDS
        while True:
            try:
                return stack.enter_context(supply.open_cached(row, progress=self.tick))
            except UserError as error:
                if error.code not in _TRANSIENT_CODES or time.monotonic() > deadline:
                    raise
                log.warning("input_not_here", path=row.path, error=str(error))
            self._stopping.wait(self._settings.reap_seconds)
            self.tick()
            with self._database.reading() as session:
                row = session.get_one(ArtifactUpload, row.path)

    def tick(self) -> None:
        """Raises: Interrupted, StaleLease, UNREACHABLE."""
        if self._stopping.is_set():
            raise FetchInterrupted("the worker is leaving")
        if time.monotonic() < self._renewed + self._settings.heartbeat_seconds:
            return
        now = time.monotonic()
        try:
            with self._database.session() as session:
                state = renew_lease(session, self._claim, self._settings.lease_seconds)
        except UNREACHABLE as error:
            log_database_error(error)
            if now > self._renewed + LEASE_SAFETY * self._settings.lease_seconds:
                raise
            return
        self._renewed = now
        if state is not State.RUNNING:
            raise FetchInterrupted("it was asked to stop before its inputs were here")
