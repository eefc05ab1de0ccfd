"""Registered encoders for requests: loading with an integrity check, and bounds on inputs.

Damage on the server is not a fault of the request: the response names the encoder and who can restore it, the log names
the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog
from anyio import to_thread
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import registry
from lcl_core.db.models import EncoderRow
from lcl_core.encoders.registry import TEXTS

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.serving.batched_engine import BatchedEngine

log = structlog.get_logger(__name__)
MAX_INPUTS = 256  # texts and images of a request
MAX_TEXT_CHARACTERS = 20_000  # of one text
CHANGED, UNREADABLE = "encoder_changed", "encoder_unreadable"
Result = TypeVar("Result")


async def open_encoder(state: AppState, reference: str) -> BatchedEngine:
    """The loaded encoder of the id or name that a request gives as its ``model``.

    Raises: UserError; Problem 422 ``unsupported``, and as ``load_encoder``.
    """

    def find() -> BatchedEngine:
        with state.database.reading() as session:
            row = registry.get_encoder(session, reference)
            if row.info.get("reads") == [TEXTS]:  # before others leave the memory for it
                message = (
                    f"encoder {row.name!r} ({row.id}) reads texts alone, for tuned_retrieval.text_encoder of "
                    "evaluations; choose an encoder that reads images"
                )
                raise Problem(422, "unsupported", message, field="model")
            return load_encoder(state, session, row)

    return await to_thread.run_sync(find, limiter=state.opening)


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
    if not 1 <= len(items) <= MAX_INPUTS:
        message = f"{field}: send 1 to {MAX_INPUTS} items at once (got {len(items)})"
        raise Problem(422, "too_many_items", message, field=field)


def check_text(text: str, field: str) -> str:
    """Raises: Problem 422."""
    if len(text) > MAX_TEXT_CHARACTERS:
        message = f"{field}: the text is longer than {MAX_TEXT_CHARACTERS} characters"
        raise Problem(422, "invalid_value", message, field=field)
    return text


async def read_images(
    state: AppState, urls: Mapping[str, str], use: Callable[[bytes, Image], Result]
) -> dict[str, Result]:
    """``use`` of each image, by its field: they are decoded one after another, in one of few threads.

    Args:
        urls: data URLs of the images by their field in the request.
        use: called with the encoded and the decoded image (RGB).

    Raises: Problem 422 naming an image that is unreadable, too large, or one too many; UserError ``out_of_memory``.
    """
    if not urls:
        return {}
    from api.services.request_images import decode_images  # Pillow, and torch, which the opened encoder has imported

    return await to_thread.run_sync(decode_images, urls, use, limiter=state.inferring)
