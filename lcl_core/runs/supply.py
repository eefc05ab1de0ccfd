"""Folders that rows name, on a machine that need not be the one that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

from sqlalchemy.orm import Session

from lcl_core.runs.deposits import Files, check_there, deposit_of
from lcl_core.runs.depot import Depot
from lcl_core.runs.home import home_id
from lcl_core.runs.registry import located
from lcl_core.runs.shelf import Shelf, nothing
from lcl_core.runs.tables import Deposit
from lcl_core.settings import Settings


class Supply:
    """Opens nothing until it is needed. Without ``LCL_ARTIFACTS`` all folders are the home's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.home = settings.home.resolve()
        self.shelf = Shelf(self.home / "cache" / "artifacts", settings.artifacts_cache_bytes)

    @property
    def holder(self) -> str | None:
        """Whose folders are to be sent to the store: this home's, by its id; None: there is no store."""
        return self._home_id if self._settings.artifacts else None

    @cached_property
    def _home_id(self) -> str:
        return home_id(self.home)

    @cached_property
    def depot(self) -> Depot:
        """The store. Raises: UserError where there is none, or its protocol is not known."""
        return Depot(self._settings.artifacts)

    def elsewhere(self, session: Session, stored: str) -> Deposit | None:
        """What the store has, or is to have, of a folder whose newest files this home has not; else None."""
        if self.holder is None:
            return None
        row = deposit_of(session, stored)
        here = row is not None and row.holder == self.holder and located(self.home, stored).is_dir()
        return None if here else row

    def using(
        self, row: Deposit, below: str = "", tick: Callable[[], None] = nothing
    ) -> AbstractContextManager[Path]:
        """The folder, or the one ``below`` in it, fetched if need be; it stays at least until the end of the block.

        Raises (on entry): UserError ``artifacts_pending``, ``store_unreachable`` or as Shelf.
        """
        place, prefix = check_there(row), f"{below}/" if below else ""
        files: Files = {
            name.removeprefix(prefix): facts for name, facts in (row.files or {}).items() if name.startswith(prefix)
        }
        key = f"{place}/{below}" if below else place

        def read(name: str, size: int) -> Iterable[bytes]:
            return self.depot.chunks(place, prefix + name, 0, size)

        return self.shelf.using(key, files, read, tick)

    @contextmanager
    def holding(self, session: Session, stored: str) -> Iterator[Path]:
        """A folder wherever it is, until the end of the block; ``session`` only reads, and is given up meanwhile.

        Raises (on entry): as ``using``.
        """
        row = self.elsewhere(session, stored)
        session.close()
        if row is None:
            yield located(self.home, stored)
            return
        with self.using(row) as path:
            yield path

    def folder(self, session: Session, stored: str, below: str = "") -> Path:
        """The same for a use that is over at once; ``session`` only reads, and is given up while files come.

        Raises: as ``using``.
        """
        row = self.elsewhere(session, stored)
        if row is None:
            return located(self.home, stored) / below
        session.close()
        with self.using(row, below) as path:
            return path
