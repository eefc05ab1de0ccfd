"""The encoder that a request names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from api.context import Context
from lcl_core.runs import store
from lcl_core.runs.tables import Encoder

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession


def open_encoder(context: Context, session: Session, reference: str) -> tuple[str, BatchingSession]:
    """Its id, and itself in memory. Ends the session: a connection is not held while it is loaded, or runs.

    Raises: UserError.
    """
    row = store.get_encoder(session, reference)
    directory = context.supply.folder(session, row.path)
    imported = is_imported(row)
    session.close()
    return row.id, context.inference().encoder(directory, imported)


def is_imported(row: Encoder) -> bool:
    """Did somebody bring it, rather than a run or the product?"""
    return "imported_from" in row.info
