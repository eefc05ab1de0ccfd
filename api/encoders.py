"""Registered encoders in memory: what a request names, loaded after its files were compared with what is registered.

Damage on the server is not a fault of the request: the answer names the encoder and who can mend it, the log the path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.orm import Session

from api.context import Context
from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.runs import store
from lcl_core.runs.tables import Encoder

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession

log = structlog.get_logger(__name__)
CHANGED, DAMAGED = "encoder_changed", "encoder_damaged"
_UNREADABLE = ("bad_encoder", "encoder_unhealthy", "encoder_unreadable")


def open_encoder(context: Context, session: Session, reference: str) -> tuple[str, BatchingSession]:
    """Its id, and itself in memory. Ends the session: a connection is not held while it is loaded, or runs.

    Raises: UserError; Problem as ``load_registered``.
    """
    row = store.get_encoder(session, reference)
    directory = context.supply.folder(session, row.path)
    session.close()
    return row.id, load_registered(context, row, directory)


def load_registered(context: Context, row: Encoder, directory: Path) -> BatchingSession:
    """The encoder of a row, whose files lie in ``directory``.

    One that was imported is examined in a process of its own, once, before anything here reads it.

    Raises: Problem 409 ``encoder_changed`` or ``encoder_damaged``; UserError.
    """
    with telling_damage(row, directory):
        imported = "imported_from" in row.info  # rather than made by a run, or part of the product
        found = context.inference().encoder(directory, store.registered_files(row), imported=imported)
        if found.hash != row.hash:  # of a row that names no files
            raise UserError("the weights changed since it was registered (sha256 differs)", code=CHANGED)
        return found


@contextmanager
def telling_damage(row: Encoder, directory: Path) -> Iterator[None]:
    """What is wrong with the files of a registered encoder is told by its name, and without places of the server.

    Raises: Problem 409; whatever else the block raises.
    """
    try:
        yield
    except UserError as error:
        if error.code not in (CHANGED, *_UNREADABLE):
            error.file = None
            raise
        log.error("encoder_damaged", encoder=row.id, error=str(error))
        reason = _without_paths(error, directory)
        way_out = (
            f"an admin can restore them from a backup; its owner ({row.owner}) or an admin can import the encoder "
            "again and delete this one"
        )
        if error.code == CHANGED:
            raise Problem(409, CHANGED, f"encoder {row.name!r} ({row.id}): {reason}; {way_out}") from error
        message = f"the files of encoder {row.name!r} ({row.id}) cannot be used on the server: {reason}; {way_out}"
        raise Problem(409, DAMAGED, message) from error


def _without_paths(error: UserError, directory: Path) -> str:
    reason = error.message.partition("; ")[0]
    for path in (str(directory.resolve()), str(directory)):
        reason = reason.replace(path, "its directory")
    return reason
