"""Registered encoders: loading with an integrity check, and their views as models.

Damage on the server is not a fault of the request: the response names the encoder and who can restore it, the log names
the path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.schemas.inference import ModelView
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import registry
from lcl_core.db.models import EncoderRow
from lcl_core.encoders.registry import TEXTS

if TYPE_CHECKING:
    from lcl_core.serving.batched_engine import BatchedEngine

log = structlog.get_logger(__name__)
CHANGED, DAMAGED = "encoder_changed", "encoder_damaged"
_UNREADABLE = ("encoder_unhealthy", "encoder_unreadable")


def open_encoder(state: AppState, session: Session, reference: str) -> BatchedEngine:
    """The loaded encoder of the id or name that a request gives as its ``model``. Closes the session.

    Raises: UserError; Problem 422 ``no_image_encoder``, and as ``load_encoder``.
    """
    row = registry.get_encoder(session, reference)
    if row.info.get("reads") == [TEXTS]:  # before others leave the memory for it
        message = (
            f"encoder {row.name!r} ({row.id}) reads texts alone, for tuned_retrieval.text_encoder of evaluations; "
            "choose an encoder that reads images"
        )
        raise Problem(422, "no_image_encoder", message, field="model")
    return load_encoder(state, session, row)


def load_encoder(state: AppState, session: Session, row: EncoderRow, *, evict: bool = True) -> BatchedEngine:
    """The loaded encoder of a row; blocks while it is loaded. Closes the session: no connection is held meanwhile.

    A sandboxed process examines an imported encoder once before it is loaded.

    Args:
        evict: as ModelPool.get's.

    Raises: Problem 409 ``encoder_changed`` or ``encoder_damaged``; UserError.
    """
    directory = state.artifacts.folder(session, row.path)
    session.close()
    with damage_as_problem(row, directory):
        imported = "imported_from" in row.info  # rather than trained here or bundled
        files = registry.registered_files(row)
        encoder = state.inference().encoder(directory, files, imported=imported, evict=evict)
        if encoder.hash != row.hash:  # of a row without file hashes
            raise UserError("the weights changed since it was registered (sha256 differs)", code=CHANGED)
        return encoder


@contextmanager
def damage_as_problem(row: EncoderRow, directory: Path) -> Iterator[None]:
    """Report damaged files by the encoder's name, without paths of the server.

    Raises: Problem 409; other errors of the block.
    """
    try:
        yield
    except UserError as error:
        if error.code not in (CHANGED, *_UNREADABLE):
            error.file = None
            raise
        log.error("encoder_damaged", encoder=row.id, error=str(error))
        reason = error.message.partition("; ")[0]
        for path in (str(directory.resolve()), str(directory)):
            reason = reason.replace(path, "its directory")
        way_out = (
            f"an admin can restore them from a backup; its owner ({row.owner}) or an admin can import the encoder "
            "again and delete this one"
        )
        if error.code == CHANGED:
            raise Problem(409, CHANGED, f"encoder {row.name!r} ({row.id}): {reason}; {way_out}") from error
        message = f"the files of encoder {row.name!r} ({row.id}) cannot be used on the server: {reason}; {way_out}"
        raise Problem(409, DAMAGED, message) from error


def list_models(session: Session) -> list[ModelView]:
    """Every encoder, newest first: the newest of a name by the name, the others by their id."""
    names: set[str] = set()
    models = []
    for row in registry.list_encoders(session):
        reference = row.id if row.name in names else row.name
        names.add(row.name)
        created = int(row.created_at.timestamp())
        models.append(ModelView(id=reference, created=created, owned_by=row.owner, encoder_id=row.id))
    return models
