"""Routes for uploads: the upload, its progress, and the session's own files.

They replace Gradio's routes, which know neither sessions nor a limit on a request, and leave partial files on the disk
when a browser disconnects.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import unicodedata
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
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from ui.file_routes import image_media_type
from ui.session_files import SessionFiles, UploadError, UploadLimits
from ui.sessions import SESSION_SCOPE_KEY, SessionStore

GRADIO_PREFIX = "/gradio_api"
MAX_UPLOAD_FILES, MAX_UPLOAD_FIELDS = 256, 16
MAX_FOLDERS, MAX_FOLDERS_BYTES = 16, 3072  # kept above a file; a path of Linux has at most 4096 bytes
MAX_NAME_BYTES, MAX_SUFFIX_BYTES = 255, 32  # of a file's or folder's name, and of the suffix that a longer one keeps
MULTIPART_OVERHEAD_BYTES = 256 * 1024  # of a request, besides its files
MAX_DRAINED_BYTES = 512 * 2**20  # of a rejected request, read and discarded
IDLE_SECONDS, UPLOAD_SECONDS = 30.0, 900.0
PROGRESS_START_SECONDS, PROGRESS_POLL_SECONDS, HEARTBEAT_SECONDS = 3.0, 0.05, 15.0
NO_SPACE = "The page cannot write the file: its disk is full or not writable. Try again later."
FILE_NOT_FOUND = "There is no such file among those of your session."


@dataclass(frozen=True)
class _UploadContext:
    """Shared by the routes; ``progress``: of uploads, by session and upload id."""

    files: SessionFiles
    sessions: SessionStore
    progress: dict[tuple[str, str], FileUploadProgress]

    def session_and_key(self, request: Request) -> tuple[str, str]:
        session = str(request.scope[SESSION_SCOPE_KEY])
        user = self.sessions.find(session)
        return session, user.key if user else ""


def build_upload_routes(files: SessionFiles, sessions: SessionStore) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    context = _UploadContext(files, sessions, {})

    @router.post(f"{GRADIO_PREFIX}/upload")
    async def upload(request: Request, upload_id: str = "") -> Response:
        try:
            try:
                paths = await _receive_files(context, request, upload_id[:64])
            except OSError as error:
                raise UploadError(507, NO_SPACE) from error
            return Response(json.dumps(paths), media_type="application/json")
        except UploadError as error:
            await _drain(request)
            headers = {"retry-after": "10"} if error.status == 429 else {}
            return PlainTextResponse(str(error), error.status, headers={**headers, "connection": "close"})

    @router.get(f"{GRADIO_PREFIX}/upload_progress")
    async def progress(request: Request, upload_id: str) -> Response:
        steps = _progress_events(context, (context.session_and_key(request)[0], upload_id[:64]))
        return StreamingResponse(steps, media_type="text/event-stream")

    @router.api_route(
        GRADIO_PREFIX + "/file={path:path}", methods=["GET", "HEAD"]
    )  # HEAD too: it would reach Gradio otherwise
    def own_file(request: Request, path: str) -> Response:
        file = files.find(context.session_and_key(request)[0], path)
        if file is None:
            return PlainTextResponse(FILE_NOT_FOUND, 404)
        with file.open("rb") as opened:
            kind = image_media_type(opened.read(16))
        disposition = "inline" if kind.startswith("image/") else "attachment"
        headers = {"x-content-type-options": "nosniff", "cache-control": "private, no-store"}
        return FileResponse(
            file, media_type=kind, headers=headers, filename=file.name, content_disposition_type=disposition
        )

    return router


async def _receive_files(context: _UploadContext, request: Request, upload_id: str) -> list[str]:
    """Store the files of the request for its session. Returns: their paths. Raises: UploadError."""
    session, key = context.session_and_key(request)
    limits = context.files.limits
    declared = request.headers.get("content-length", "")
    size = (
        max(0, int(declared) - MULTIPART_OVERHEAD_BYTES)
        if declared.isascii() and declared.isdigit()
        else limits.request
    )
    progress = FileUploadProgress() if upload_id else None
    with context.files.receive(session, key, size) as folder:
        if progress is not None:
            progress.track(upload_id)
            context.progress[session, upload_id] = progress
        try:
            parser = GradioMultiPartParser(
                request.headers,
                _limited_body(request, limits),
                max_files=MAX_UPLOAD_FILES,
                max_fields=MAX_UPLOAD_FIELDS,
                upload_dir=folder,
                upload_id=upload_id or None,
                upload_progress=progress,
                max_file_size=limits.file,
            )
            form = await parser.parse()
            return [
                _store_file(context, session, key, item)
                for item in form.getlist("files")
                if isinstance(item, UploadFile)
            ]
        except MultiPartException as error:
            raise _parser_error(error, limits) from error
        except (ClientDisconnect, KeyError, AttributeError) as error:  # no content type, or a field in place of a file
            raise UploadError(400, "The upload was broken off.") from error
        finally:
            context.progress.pop((session, upload_id), None)


async def _limited_body(request: Request, limits: UploadLimits) -> AsyncGenerator[bytes, None]:
    """Chunks of the body, within the limits on bytes and time. Raises: UploadError, ClientDisconnect."""
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
        if read > limits.request + MULTIPART_OVERHEAD_BYTES:
            raise limits.request_too_large()
        yield chunk


async def _drain(request: Request) -> None:
    """Read and discard the rest of the body: a browser that is still sending does not read a response."""
    remaining = MAX_DRAINED_BYTES
    with suppress(ClientDisconnect, RuntimeError, TimeoutError):  # RuntimeError: already read to the end
        async with asyncio.timeout(IDLE_SECONDS):
            async for chunk in request.stream():
                remaining -= len(chunk)
                if remaining <= 0:
                    return


def _store_file(context: _UploadContext, session: str, key: str, item: UploadFile) -> str:
    """Give a received file to the session under its name.

    A browser names a file of a chosen folder by its path from there. The folders below the chosen one are kept above
    the file: a class, or where a page looks for its images.
    """
    item.file.close()
    *folders, name = Path("/", item.filename or "").parts
    below = [] if ".." in folders else folders[2:][-MAX_FOLDERS:]  # the first two are / and the chosen folder
    kept = [*filter(None, map(_clean_name, below))]
    while sum(len(each.encode()) + 1 for each in kept) > MAX_FOLDERS_BYTES:
        kept.pop(0)
    return str(context.files.store(session, key, Path(item.file.name), Path(*kept, _clean_name(name) or "file")))


def _clean_name(name: str) -> str:
    """Without what a file's name cannot have; empty if nothing is left.

    All else stays, as ``What now?!.png``: the documents of a corpus name their images. A backslash would be a slash in
    a zip.
    """
    bare = "".join(each for each in name if each not in "/\\" and unicodedata.category(each) not in ("Cc", "Cs"))
    if not bare.strip(". "):
        return ""
    suffix = os.path.splitext(bare)[1]
    suffix = suffix if len(suffix.encode()) <= MAX_SUFFIX_BYTES else ""
    stem = bare.removesuffix(suffix).encode()[: MAX_NAME_BYTES - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix


def _parser_error(error: MultiPartException, limits: UploadLimits) -> UploadError:
    if error.message.startswith("File size exceeded"):
        return limits.file_too_large()
    if "Too many files" in error.message:
        return UploadError(413, f"These are too many files. At most {MAX_UPLOAD_FILES} at a time.")
    return UploadError(400, "The upload could not be read. Try again.")


async def _progress_events(context: _UploadContext, name: tuple[str, str]) -> AsyncIterator[str]:
    """Server-sent events in Gradio's format: one for each chunk received, one at the end."""
    now = time.monotonic
    until = now() + PROGRESS_START_SECONDS
    while name not in context.progress and now() < until:
        await asyncio.sleep(PROGRESS_POLL_SECONDS)
    last_sent = now()
    while (progress := context.progress.get(name)) is not None:
        try:
            if progress.is_done(name[1]):
                break
            step = progress.pop(name[1])
            yield _message(msg="update", orig_name=step.filename, chunk_size=step.chunk_size)
        except (FileUploadProgressNotQueuedError, FileUploadProgressNotTrackedError):
            if now() - last_sent > HEARTBEAT_SECONDS:
                yield _message(msg="heartbeat")
                last_sent = now()
            await asyncio.sleep(PROGRESS_POLL_SECONDS)
    yield _message(msg="done")


def _message(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"
