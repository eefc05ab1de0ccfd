"""The page's routes for files of visitors: upload, the progress of it, and a file of one's own again.

They take the place of Gradio's, which know neither sessions nor a bound for a whole request, and leave half an upload
on the disk when a browser hangs up.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from gradio.route_utils import (
    FileUploadProgress,
    FileUploadProgressNotQueuedError,
    FileUploadProgressNotTrackedError,
    GradioMultiPartParser,
)
from gradio_client.utils import strip_invalid_filename_characters
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from ui.files import picture_type
from ui.session_files import SessionFiles, UploadBounds, UploadRefused
from ui.visitors import TOKEN, Visitors

PREFIX = "/gradio_api"
MOST_FILES, MOST_FIELDS = 256, 16
OVERHEAD = 256 * 1024  # bytes of a request besides its files
DRAINED = 512 * 2**20  # bytes of a refused request that are read and forgotten
SILENCE_SECONDS, UPLOAD_SECONDS = 30.0, 900.0
TRACKED_SECONDS, LOOK_SECONDS, BEAT_SECONDS = 3.0, 0.05, 15.0
NO_SPACE = "The page cannot write the file: its disk is full or not writable. Try again later."
NOT_YOURS = "There is no such file among those of your session."


@dataclass(frozen=True)
class _Uploads:
    """What the routes share."""

    files: SessionFiles
    visitors: Visitors
    under_way: dict[tuple[str, str], FileUploadProgress]

    def who(self, request: Request) -> tuple[str, str]:
        """Session and key of who asks; the gate has let nobody else through."""
        session = str(request.scope[TOKEN])
        visitor = self.visitors.find(session)
        return session, visitor.key if visitor else ""


def build_uploads(files: SessionFiles, visitors: Visitors) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    shared = _Uploads(files, visitors, {})

    @router.post(f"{PREFIX}/upload")
    async def upload(request: Request, upload_id: str = "") -> Response:
        try:
            try:
                paths = await _received(shared, request, upload_id[:64])
            except OSError as error:
                raise UploadRefused(507, NO_SPACE) from error
            return Response(json.dumps(paths), media_type="application/json")
        except UploadRefused as refused:
            await _drain(request)
            headers = {"retry-after": "10"} if refused.status == 429 else {}
            return PlainTextResponse(str(refused), refused.status, headers={**headers, "connection": "close"})

    @router.get(f"{PREFIX}/upload_progress")
    async def progress(request: Request, upload_id: str) -> Response:
        steps = _steps(shared, (shared.who(request)[0], upload_id[:64]))
        return StreamingResponse(steps, media_type="text/event-stream")

    @router.api_route(PREFIX + "/file={path:path}", methods=["GET", "HEAD"])  # else HEAD would be Gradio's
    def own_file(request: Request, path: str) -> Response:
        found = files.find(shared.who(request)[0], path)
        if found is None:
            return PlainTextResponse(NOT_YOURS, 404)
        with found.open("rb") as opened:
            kind = picture_type(opened.read(16))
        how = "inline" if kind.startswith("image/") else "attachment"
        headers = {"x-content-type-options": "nosniff", "cache-control": "private, no-store"}
        return FileResponse(found, media_type=kind, headers=headers, filename=found.name, content_disposition_type=how)

    return router


async def _received(shared: _Uploads, request: Request, upload_id: str) -> list[str]:
    """The paths of the files, which are the session's from then on. Raises: UploadRefused."""
    session, key = shared.who(request)
    bounds = shared.files.bounds
    declared = request.headers.get("content-length", "")
    size = max(0, int(declared) - OVERHEAD) if declared.isascii() and declared.isdigit() else bounds.request
    progress = FileUploadProgress() if upload_id else None
    with shared.files.arriving(session, key, size) as folder:
        if progress is not None:
            progress.track(upload_id)
            shared.under_way[session, upload_id] = progress
        try:
            parser = GradioMultiPartParser(
                request.headers,
                _bounded(request, bounds),
                max_files=MOST_FILES,
                max_fields=MOST_FIELDS,
                upload_dir=folder,
                upload_id=upload_id or None,
                upload_progress=progress,
                max_file_size=bounds.file,
            )
            form = await parser.parse()
            return [_kept(shared, session, key, item) for item in form.getlist("files") if isinstance(item, UploadFile)]
        except MultiPartException as error:
            raise _refusal(error, bounds) from error
        except (ClientDisconnect, KeyError, AttributeError) as error:  # no content type; a field where files belong
            raise UploadRefused(400, "The upload was broken off.") from error
        finally:
            shared.under_way.pop((session, upload_id), None)


async def _bounded(request: Request, bounds: UploadBounds) -> AsyncGenerator[bytes, None]:
    """The body as it comes, counted and timed. Raises: UploadRefused, ClientDisconnect."""
    read, until = 0, time.monotonic() + UPLOAD_SECONDS
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(min(SILENCE_SECONDS, max(0.0, until - time.monotonic()))):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise UploadRefused(408, "The upload took too long, or nothing came any more. Try again.") from None
        if chunk is None:
            return
        read += len(chunk)
        if read > bounds.request + OVERHEAD:
            raise bounds.request_too_large()
        yield chunk


async def _drain(request: Request) -> None:
    """Read the rest and keep none of it: a browser that is still sending reads no answer."""
    left = DRAINED
    with suppress(ClientDisconnect, RuntimeError, TimeoutError):  # RuntimeError: it was read to its end before
        async with asyncio.timeout(SILENCE_SECONDS):
            async for chunk in request.stream():
                left -= len(chunk)
                if left <= 0:
                    return


def _kept(shared: _Uploads, session: str, key: str, item: UploadFile) -> str:
    """Move a received file to a folder of its own, under its own name, and give it to the session."""
    item.file.close()
    name = strip_invalid_filename_characters(Path(item.filename or "").name.replace("\0", ""))
    target = shared.files.fresh_folder() / (name if name.strip(". ") else "file")
    Path(item.file.name).rename(target)
    shared.files.keep(session, key, target)
    return str(target)


def _refusal(error: MultiPartException, bounds: UploadBounds) -> UploadRefused:
    if error.message.startswith("File size exceeded"):
        return bounds.file_too_large()
    if "Too many files" in error.message:
        return UploadRefused(413, f"These are too many files. At most {MOST_FILES} at a time.")
    return UploadRefused(400, "The upload could not be read. Try again.")


async def _steps(shared: _Uploads, name: tuple[str, str]) -> AsyncIterator[str]:
    """What Gradio's page shows while it sends: a message for each step, and one at the end."""
    now = time.monotonic
    until = now() + TRACKED_SECONDS
    while name not in shared.under_way and now() < until:
        await asyncio.sleep(LOOK_SECONDS)
    beaten = now()
    while (progress := shared.under_way.get(name)) is not None:
        try:
            if progress.is_done(name[1]):
                break
            step = progress.pop(name[1])
            yield _message(msg="update", orig_name=step.filename, chunk_size=step.chunk_size)
        except (FileUploadProgressNotQueuedError, FileUploadProgressNotTrackedError):
            if now() - beaten > BEAT_SECONDS:
                yield _message(msg="heartbeat")
                beaten = now()
            await asyncio.sleep(LOOK_SECONDS)
    yield _message(msg="done")


def _message(**words: Any) -> str:
    return f"data: {json.dumps(words)}\n\n"
