"""Registered encoders: loading with an integrity check, and their views as models.

Damage on the server is not a fault of the request: the response names the encoder and who can restore it, the log names
the path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
    from lcl_core.collections.full_text import FullTextIndex
    from lcl_core.serving.batched_engine import BatchedEngine

log = structlog.get_logger(__name__)
CHANGED, DAMAGED = "encoder_changed", "encoder_damaged"
_UNREADABLE = ("encoder_unhealthy", "encoder_unreadable")
Json = dict[str, Any]
Result = TypeVar("Result")


class EncoderLoading(Exception):
    """The encoder is not in memory yet. ``future`` is done when it is, or when it cannot be loaded."""

    def __init__(self, future: Future[BatchedEngine]) -> None:
        super().__init__("the encoder is being loaded")
        self.future = future


class CaptionsIndexing(Exception):
    """The full-text index of a collection is being made. ``future`` is done when it is there, or cannot be made."""

    def __init__(self, future: Future[FullTextIndex]) -> None:
        super().__init__("captions are being indexed")
        self.future = future


async def when_loaded(call: Callable[[], Awaitable[Result]]) -> Result:
    """``await call()``, again each time that an encoder or index which it needs has been loaded, or cannot be.

    Loading takes seconds, as does an index, the examination of an imported encoder minutes: no thread waits for it, so
    that requests for other encoders and collections are served meanwhile. ``call`` raises EncoderLoading or
    CaptionsIndexing before it has changed anything.

    Raises: errors of ``call`` and of the making of an index.
    """
    while True:
        try:
            return await call()
        except (EncoderLoading, CaptionsIndexing) as missing:
            needed = missing
        if isinstance(needed, CaptionsIndexing):
            await asyncio.wrap_future(needed.future)
            continue
        with suppress(Exception):  # which the next call reports
            await asyncio.wrap_future(needed.future)


def open_encoder(state: AppState, session: Session, reference: str) -> BatchedEngine:
    """The loaded encoder of the id or name that a request gives as its ``model``. Closes the session.

    Raises: EncoderLoading; UserError; Problem 422 ``no_image_encoder``, and as ``load_encoder``.
    """
    row = registry.get_encoder(session, reference)
    if row.info.get("reads") == [TEXTS]:  # before others leave the memory for it
        message = (
            f"encoder {row.name!r} ({row.id}) reads texts alone, for tuned_retrieval.text_encoder of evaluations; "
            "choose an encoder that reads images"
        )
        raise Problem(422, "no_image_encoder", message, field="model")
    return load_encoder(state, session, row)


def load_encoder(
    state: AppState, session: Session, row: EncoderRow, *, evict: bool = True, wait: bool = False
) -> BatchedEngine:
    """The loaded encoder of a row. Closes the session: no connection is held while it loads.

    A sandboxed process examines an imported encoder once before it is loaded.

    Args:
        evict: as ModelPool.get's.
        wait: block while it is loaded.

    Raises: EncoderLoading without ``wait``; Problem 409 ``encoder_changed`` or ``encoder_damaged``; UserError.
    """
    directory = state.artifacts.folder(session, row.path)
    session.close()
    with damage_as_problem(row, directory):
        imported = "imported_from" in row.info  # rather than trained here or bundled
        files = registry.registered_files(row)
        inference = state.inference()
        if wait:
            encoder = inference.encoder(directory, files, imported=imported, evict=evict)
        else:
            future = inference.start_loading(directory, files, imported=imported, evict=evict)
            if not future.done():
                raise EncoderLoading(future)
            encoder = future.result()
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
        models.append(model_view(row, row.id if row.name in names else row.name))
        names.add(row.name)
    return models


def model_view(row: EncoderRow, reference: str) -> ModelView:
    """The encoder as OpenAI's API describes a model. ``reference``: the id or name by which it is asked for."""
    created = int(row.created_at.timestamp())
    return ModelView(id=reference, created=created, owned_by=row.owner, encoder_id=row.id)
