"""Registered encoders for requests: loading with an integrity check, bounds on inputs, and the decoding of images.

Damage on the server is not a fault of the request: the response names the encoder and who can restore it, the log names
the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from anyio import to_thread
from sqlalchemy.orm import Session

from api.core import limits
from api.core.errors import Problem
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import registry
from lcl_core.db.models import EncoderRow
from lcl_core.encoders.registry import TEXTS

if TYPE_CHECKING:
    from api.services.request_images import RequestImages
    from lcl_core.serving.batched_engine import BatchedEngine

log = structlog.get_logger(__name__)
CHANGED, UNREADABLE = "encoder_changed", "encoder_unreadable"
Opened = TypeVar("Opened")
Result = TypeVar("Result")
Submitted = tuple[list[Future[Any]], Result]  # the items' results to come, and whatever else the caller needs


def open_encoder(state: AppState, session: Session, reference: str) -> BatchedEngine:
    """The loaded encoder of the id or name that a request gives as its ``model``. Closes the session.

    Raises: UserError; Problem 422 ``unsupported``, and as ``load_encoder``.
    """
    row = registry.get_encoder(session, reference)
    if row.info.get("reads") == [TEXTS]:  # before others leave the memory for it
        message = (
            f"encoder {row.name!r} ({row.id}) reads texts alone, for tuned_retrieval.text_encoder of evaluations; "
            "choose an encoder that reads images"
        )
        raise Problem(422, "unsupported", message, field="model")
    return load_encoder(state, session, row)


def load_encoder(state: AppState, session: Session, row: EncoderRow, *, evict: bool = True) -> BatchedEngine:
    """The loaded encoder of a row; blocks while it is loaded. Closes the session: no connection is held meanwhile.

    A sandboxed process examines an imported encoder once before it is loaded. ``evict``: as ModelPool.get's.

    Raises: Problem 409 ``encoder_changed`` or ``encoder_unreadable``; UserError.
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
        if error.code not in (CHANGED, UNREADABLE):
            error.file = None
            raise
        log.error("encoder_damaged", encoder=row.id, error=str(error))
        reason = error.message.partition("; ")[0]
        for path in (str(directory.resolve()), str(directory)):
            reason = reason.replace(path, "its directory")
        message = (
            f"encoder {row.name!r} ({row.id}) cannot be used on the server: {reason}; an admin can restore its files "
            f"from a backup; its owner ({row.owner}) or an admin can import the encoder again and delete this one"
        )
        raise Problem(409, CHANGED if error.code == CHANGED else UNREADABLE, message) from error


def check_count(items: Sequence[object], field: str) -> None:
    """Raises: Problem 422 for no items, or more than a request may hold."""
    if not 1 <= len(items) <= limits.MAX_INPUTS:
        message = f"{field}: send 1 to {limits.MAX_INPUTS} items at once (got {len(items)})"
        raise Problem(422, "too_many_items", message, field=field)


def check_text(text: str, field: str) -> str:
    """Raises: Problem 422."""
    if len(text) > limits.MAX_TEXT_CHARACTERS:
        message = f"{field}: the text is longer than {limits.MAX_TEXT_CHARACTERS} characters"
        raise Problem(422, "invalid_value", message, field=field)
    return text


async def read_images(
    state: AppState,
    urls: Mapping[str, str],
    begin: Callable[[], tuple[BatchedEngine, Opened]],
    read: Callable[[BatchedEngine, Opened, RequestImages], Submitted[Result]],
) -> Submitted[Result]:
    """Call ``begin``, then ``read``; the latter in one of few threads, which bound the images decoded at one time.

    Args:
        urls: data URLs of the images by their field in the request.
        begin: opens the encoder, which may have to be loaded, and checks the request as far as no image is needed.
        read: decodes and prepares one image after another, and submits them.

    Raises: their errors; Problem 422 naming an image that is too large, or one too many; UserError ``out_of_memory``.
    """
    encoder, opened = await to_thread.run_sync(begin, limiter=state.opening)

    def submit() -> Submitted[Result]:
        from api.services.request_images import RequestImages  # Pillow and torch, which ``begin`` has imported

        images = RequestImages(urls)
        return images.call(lambda: read(encoder, opened, images))

    return await to_thread.run_sync(submit, limiter=state.inferring)
