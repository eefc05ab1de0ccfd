"""Corpora that clients send: a zip, unpacked below ``$LCL_HOME/data/uploads``.

The folder of an upload has ``upload.json`` (its owner) and ``corpus``. A conversion to shards reads ``corpus``. Uploads
that no dataset and no unfinished run names are garbage after the grace period (``lcl_core.db.garbage``).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread

from api.core.errors import Problem
from lcl_core.common.archive import Unpacked, unpack_zip
from lcl_core.common.files import write_json_atomically
from lcl_core.db.models import UPLOAD_PREFIX, UPLOADS_FOLDER, new_id

MAX_FILES = 100_000
_ID = re.compile(rf"{UPLOAD_PREFIX}_[0-9a-z]{{18}}")
_INFO, _ARCHIVE, _CORPUS = "upload.json", "archive.zip", "corpus"


def stored_path(upload_id: str) -> str:
    """Of the folder below the home, by which its bytes are charged."""
    return f"{UPLOADS_FOLDER}/{upload_id}"


def make_upload(home: Path, owner: str) -> Path:
    """A new folder, whose name is the upload's id."""
    folder = home.resolve() / stored_path(new_id(UPLOAD_PREFIX))
    folder.mkdir(mode=0o700, parents=True)
    write_json_atomically(folder / _INFO, {"owner": owner})
    return folder


async def receive_archive(
    folder: Path, chunks: AsyncIterator[bytes], max_bytes: int, seconds: float, threads: CapacityLimiter
) -> None:
    """Write a request's body to the folder, in threads.

    Args:
        seconds: for which it waits for the next chunk.

    Raises: Problem 408 ``body_timeout``, 413 ``archive_too_large``; starlette's ClientDisconnect.
    """
    received = 0
    with (folder / _ARCHIVE).open("xb") as file:
        while True:
            try:
                with anyio.fail_after(seconds):
                    chunk = await anext(chunks, None)
            except TimeoutError as error:
                raise Problem(408, "body_timeout", f"nothing arrived for {seconds:g} s; send it again") from error
            if chunk is None:
                return
            received += len(chunk)
            if received > max_bytes:
                message = f"the archive has more than {max_bytes} bytes; put the corpus into a data root instead"
                raise Problem(413, "archive_too_large", message)
            await to_thread.run_sync(file.write, chunk, limiter=threads)


def unpack_archive(folder: Path, max_bytes: int) -> Unpacked:
    """Unpack the archive and remove it. Raises: Problem 422 and UserError ``bad_archive``, ``archive_too_large``."""
    archive = folder / _ARCHIVE
    unpacked = unpack_zip(archive, folder / _CORPUS, max_bytes=max_bytes, max_files=MAX_FILES)
    if not unpacked.files:
        raise Problem(422, "bad_archive", "there is no file in the archive")
    archive.unlink()
    return unpacked


def corpus_folder(folder: Path) -> Path:
    """What a run names: the unpacked files, or the one folder that wraps all of them in the archive."""
    corpus = folder / _CORPUS
    entries = list(corpus.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else corpus


def find_upload(home: Path, upload_id: str, owner: str | None) -> Path:
    """The folder of an upload. Raises: Problem 404, also for one of another owner. ``owner`` None: of anybody."""
    folder, found = home.resolve() / stored_path(upload_id), None
    if _ID.fullmatch(upload_id):
        with suppress(OSError, ValueError, KeyError):  # removed, or about to be
            found = json.loads((folder / _INFO).read_text(encoding="utf-8"))["owner"]
    if found is None or owner not in (None, found):
        raise Problem(404, "not_found", f"there is no upload {upload_id[:40]}")
    return folder
