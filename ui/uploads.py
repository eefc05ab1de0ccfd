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

from ui.file_routes import image_media_type
from ui.session_files import SessionFiles, UploadError, UploadLimits
from ui.sessions import SESSION_SCOPE_KEY, SessionStore

GRADIO_PREFIX = "/gradio_api"
MAX_UPLOAD_FILES, MAX_UPLOAD_FIELDS = 256, 16
MULTIPART_OVERHEAD_BYTES = 256 * 1024  # bytes of a request besides its files
MAX_DRAINED_BYTES = 512 * 2**20  # bytes of a refused request that are read and forgotten
IDLE_SECONDS, UPLOAD_SECONDS = 30.0, 900.0
PROGRESS_START_SECONDS, PROGRESS_POLL_SECONDS, HEARTBEAT_SECONDS = 3.0, 0.05, 15.0
NO_SPACE = "The page cannot write the file: its disk is full or not writable. Try again later."
FILE_NOT_FOUND = "There is no such file among those of your session."


@dataclass(frozen=True)
class _UploadContext:
    """What the routes share."""

    files: SessionFiles
    visitors: SessionStore
    under_way: dict[tuple[str, str], FileUploadProgress]

    def who(self, request: Request) -> tuple[str, str]:
        """Session and key of who asks; the gate has let nobody else through."""
        session = str(request.scope[SESSION_SCOPE_KEY])
        visitor = self.visitors.find(session)
        return session, visitor.key if visitor else ""


def build_upload_routes(files: SessionFiles, visitors: SessionStore) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    shared = _UploadContext(files, visitors, {})

    @router.post(f"{GRADIO_PREFIX}/upload")
    async def upload(request: Request, upload_id: str = "") -> Response:
        try:
            try:
                paths = await _receive_files(shared, request, upload_id[:64])
            except OSError as error:
                raise UploadError(507, NO_SPACE) from error
            return Response(json.dumps(paths), media_type="application/json")
        except UploadError as refused:
            await _drain(request)
            headers = {"retry-after": "10"} if refused.status == 429 else {}
            return PlainTextResponse(str(refused), refused.status, headers={**headers, "connection": "close"})

    @router.get(f"{GRADIO_PREFIX}/upload_progress")
    async def progress(request: Request, upload_id: str) -> Response:
        steps = _progress_events(shared, (shared.who(request)[0], upload_id[:64]))
        return StreamingResponse(steps, media_type="text/event-stream")

    @router.api_route(GRADIO_PREFIX + "/file={path:path}", methods=["GET", "HEAD"])  # else HEAD would be Gradio's
    def own_file(request: Request, path: str) -> Response:
        found = files.find(shared.who(request)[0], path)
        if found is None:
            return PlainTextResponse(FILE_NOT_FOUND, 404)
        with found.open("rb") as opened:
            kind = image_media_type(opened.read(16))
        how = "inline" if kind.startswith("image/") else "attachment"
        headers = {"x-content-type-options": "nosniff", "cache-control": "private, no-store"}
        return FileResponse(found, media_type=kind, headers=headers, filename=found.name, content_disposition_type=how)

    return router


async def _receive_files(shared: _UploadContext, request: Request, upload_id: str) -> list[str]:
    """The paths of the files, which are the session's from then on. Raises: UploadRefused."""
    session, key = shared.who(request)
    bounds = shared.files.bounds
    declared = request.headers.get("content-length", "")
    size = (
        max(0, int(declared) - MULTIPART_OVERHEAD_BYTES)
        if declared.isascii() and declared.isdigit()
        else bounds.request
    )
    progress = FileUploadProgress() if upload_id else None
    with shared.files.arriving(session, key, size) as folder:
        if progress is not None:
            progress.track(upload_id)
            shared.under_way[session, upload_id] = progress
        try:
            parser = GradioMultiPartParser(
                request.headers,
                _limited_body(request, bounds),
                max_files=MAX_UPLOAD_FILES,
                max_fields=MAX_UPLOAD_FIELDS,
                upload_dir=folder,
                upload_id=upload_id or None,
                upload_progress=progress,
                max_file_size=bounds.file,
            )
            form = await parser.parse()
            return [
                _store_file(shared, session, key, item)
                for item in form.getlist("files")
                if isinstance(item, UploadFile)
            ]
        except MultiPartException as error:
            raise _parser_error(error, bounds) from error
        except (ClientDisconnect, KeyError, AttributeError) as error:  # no content type; a field where files belong
            raise UploadError(400, "The upload was broken off.") from error
        finally:
            shared.under_way.pop((session, upload_id), None)


async def _limited_body(request: Request, bounds: UploadLimits) -> AsyncGenerator[bytes, None]:
    """The body as it comes, counted and timed. Raises: UploadRefused, ClientDisconnect."""
    read, until = 0, time.monotonic() + UPLOAD_SECONDS
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(min(IDLE_SECONDS, max(0.0, until - time.monotonic()))):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise UploadError(408, "The upload took too long, or nothing came any more. Try again.") from None
        if chunk is None:
            return
        read += len(chunk)
        if read > bounds.request + MULTIPART_OVERHEAD_BYTES:
            raise bounds.request_too_large()
        yield chunk


async def _drain(request: Request) -> None:
    """Read the rest and keep none of it: a browser that is still sending reads no answer."""
    left = MAX_DRAINED_BYTES
    with suppress(ClientDisconnect, RuntimeError, TimeoutError):  # RuntimeError: it was read to its end before
        async with asyncio.timeout(IDLE_SECONDS):
            async for chunk in request.stream():
                left -= len(chunk)
                if left <= 0:
                    return


def _store_file(shared: _UploadContext, session: str, key: str, item: UploadFile) -> str:
    """Move a received file to a folder of its own, under its own name, and give it to the session."""
    item.file.close()
    name = strip_invalid_filename_characters(Path(item.filename or "").name.replace("\0", ""))
    target = shared.files.fresh_folder() / (name if name.strip(". ") else "file")
    Path(item.file.name).rename(target)
    shared.files.keep(session, key, target)
    return str(target)


def _parser_error(error: MultiPartException, bounds: UploadLimits) -> UploadError:
    if error.message.startswith("File size exceeded"):
        return bounds.file_too_large()
    if "Too many files" in error.message:
        return UploadError(413, f"These are too many files. At most {MAX_UPLOAD_FILES} at a time.")
    return UploadError(400, "The upload could not be read. Try again.")


async def _progress_events(shared: _UploadContext, name: tuple[str, str]) -> AsyncIterator[str]:
    """What Gradio's page shows while it sends: a message for each step, and one at the end."""
    now = time.monotonic
    until = now() + PROGRESS_START_SECONDS
    while name not in shared.under_way and now() < until:
        await asyncio.sleep(PROGRESS_POLL_SECONDS)
    beaten = now()
    while (progress := shared.under_way.get(name)) is not None:
        try:
            if progress.is_done(name[1]):
                break
            step = progress.pop(name[1])
            yield _message(msg="update", orig_name=step.filename, chunk_size=step.chunk_size)
        except (FileUploadProgressNotQueuedError, FileUploadProgressNotTrackedError):
            if now() - beaten > HEARTBEAT_SECONDS:
                yield _message(msg="heartbeat")
                beaten = now()
            await asyncio.sleep(PROGRESS_POLL_SECONDS)
    yield _message(msg="done")


def _message(**words: Any) -> str:
    return f"data: {json.dumps(words)}\n\n"
