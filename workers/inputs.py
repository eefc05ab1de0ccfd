"""What a run reads and another machine has made: brought here before the run begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from lcl_core.errors import UserError
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import Claim, State, Supply, renew, service_paths
from lcl_core.runs.tables import Deposit
from lcl_core.specs import parse_spec
from workers.logs import log_database_error
from workers.settings import WorkerSettings
from workers.watch import SAFETY

_PATIENCE_SECONDS = 300.0
# what may be otherwise in a moment: the machine that made it is sending it still, or the store is away
_PASSING = ("artifacts_pending", "store_unreachable")
log = structlog.get_logger(__name__)


class Interrupted(Exception):
    """The run is wanted elsewhere, or by nobody, before its inputs were here."""


@contextmanager
def fetched_inputs(
    database: Database, settings: WorkerSettings, supply: Supply, claim: Claim, stopping: threading.Event
) -> Iterator[dict[str, Path]]:
    """Folders by their stored path that another home holds, and where they are here until the end of the block.

    Raises (on entry): Interrupted, StaleLease, UNREACHABLE; UserError for what does not come, or is not known.
    """
    errand = _Errand(database, settings, claim, stopping)
    with ExitStack() as stack:
        yield {row.path: errand.bring(stack, supply, row) for row in _missing(database, supply, claim)}


def _missing(database: Database, supply: Supply, claim: Claim) -> list[Deposit]:
    if supply.holder is None:
        return []
    with database.reading() as session:
        stored = service_paths(session, parse_spec(claim.kind, claim.spec))
        return [row for path in stored if (row := supply.elsewhere(session, path)) is not None]


class _Errand:
    """Keeps the lease while something is fetched or waited for."""

    def __init__(
        self, database: Database, settings: WorkerSettings, claim: Claim, stopping: threading.Event
    ) -> None:
        self._database, self._settings, self._claim, self._stopping = database, settings, claim, stopping
        self._renewed = time.monotonic()

    def bring(self, stack: ExitStack, supply: Supply, row: Deposit) -> Path:
        """Raises: as ``fetched_inputs``."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return stack.enter_context(supply.using(row, tick=self.tick))
            except UserError as error:
                if error.code not in _PASSING or time.monotonic() > deadline:
                    raise
                log.warning("input_not_here", path=row.path, error=str(error))
            self._stopping.wait(self._settings.reap_seconds)
            self.tick()
            with self._database.reading() as session:
                row = session.get_one(Deposit, row.path)

    def tick(self) -> None:
        """Raises: Interrupted, StaleLease, UNREACHABLE."""
        if self._stopping.is_set():
            raise Interrupted("the worker is leaving")
        if time.monotonic() < self._renewed + self._settings.heartbeat_seconds:
            return
        now = time.monotonic()
        try:
            with self._database.session() as session:
                state = renew(session, self._claim, self._settings.lease_seconds)
        except UNREACHABLE as error:
            log_database_error(error)
            if now > self._renewed + SAFETY * self._settings.lease_seconds:
                raise
            return
        self._renewed = now
        if state is not State.RUNNING:
            raise Interrupted("it was asked to stop before its inputs were here")
