"""Routes for uploads: the upload, its progress, and the session's own files.

They replace Gradio's routes, which know neither sessions nor a limit on a request, and leave partial files on the disk
when a browser disconnects.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from gradio.route_utils import (
    FileUploadProgress,
    FileUploadProgressNotQueuedError,
    GradioMultiPartParser,
)
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from api.client import ApiError
from ui.file_routes import image_media_type
from ui.security import RequestPlaces
from ui.session_files import SessionFiles, too_large
from ui.sessions import own_session

MAX_UPLOADS = 8  # of one key at a time
MAX_UPLOAD_FILES, MAX_UPLOAD_FIELDS = 256, 16
MAX_FOLDERS = 12  # kept above a file: of 255 bytes each, of the 4096 that a path of Linux has
MAX_NAME_BYTES, MAX_SUFFIX_BYTES = 255, 32  # of a file's or folder's name, and of the suffix that a longer one keeps
MULTIPART_OVERHEAD_BYTES = 256 * 1024  # of a request, besides its files
MAX_DRAINED_BYTES, DRAIN_SECONDS = 512 * 2**20, 30.0  # of a rejected request, read and discarded
UPLOAD_SECONDS = 900.0  # the server ends an upload on which nothing comes any more (api.http_server)
PROGRESS_START_SECONDS, PROGRESS_POLL_SECONDS = 3.0, 0.05


def build_upload_routes(files: SessionFiles) -> APIRouter:
    router = APIRouter(prefix="/gradio_api", include_in_schema=False)
    places = RequestPlaces(MAX_UPLOADS)
    under_way: dict[str, FileUploadProgress] = {}  # by the name that the browser gave an upload, of its session

    @router.post("/upload")
    async def upload(request: Request, upload_id: str = "") -> Response:
        name = own_session().name_of(upload_id or "unnamed")
        progress = under_way[name] = FileUploadProgress()
        progress.track(name)
        try:
            async with places.taken(), asyncio.timeout(UPLOAD_SECONDS):
                return JSONResponse(await _receive_files(files, request, name, progress))
        except ApiError:
            await _drain(request)
            raise
        except TimeoutError as error:
            raise ApiError(408, "too_slow", "The upload took too long. Try again.") from error
        finally:
            under_way.pop(name, None)

    @router.get("/upload_progress")
    async def progress(upload_id: str) -> Response:
        steps = _progress_events(under_way, own_session().name_of(upload_id))
        return StreamingResponse(steps, media_type="text/event-stream")

    @router.api_route("/file={path:path}", methods=["GET", "HEAD"])  # HEAD too: it would reach Gradio otherwise
    def own_file(path: str) -> Response:
        file = files.find(own_session(), path)
        if file is None:
            raise ApiError(404, "not_found", "There is no such file among those of your session.")
        with file.open("rb") as opened:
            kind = image_media_type(opened.read(16))
        return FileResponse(file, media_type=kind, headers={"cache-control": "private, no-store"}, filename=file.name)

    return router


async def _receive_files(files: SessionFiles, request: Request, name: str, progress: FileUploadProgress) -> list[str]:
    """Store the files of the request for its session. Returns: their paths. Raises: ApiError."""
    limits = files.limits
    length = int(request.headers.get("content-length", limits.max_upload_request + MULTIPART_OVERHEAD_BYTES))
    try:
        with files.receive(own_session(), max(0, length - MULTIPART_OVERHEAD_BYTES)) as folder:
            (parts := folder / "parts").mkdir()
            parser = GradioMultiPartParser(
                request.headers,
                _limited(request, limits.max_upload_request),
                max_files=MAX_UPLOAD_FILES,
                max_fields=MAX_UPLOAD_FIELDS,
                upload_dir=parts,
                upload_id=name,
                upload_progress=progress,
                max_file_size=limits.max_upload,
            )
            received = [each for each in (await parser.parse()).getlist("files") if isinstance(each, UploadFile)]
            paths = [_store_file(folder / str(number), file) for number, file in enumerate(received)]
            shutil.rmtree(parts)  # what other fields hold
            return paths
    except MultiPartException as error:
        if error.message.startswith("File size exceeded"):
            raise too_large("A file is too large.", limits.max_upload) from error
        if "Too many files" in error.message:
            message = f"These are too many files. At most {MAX_UPLOAD_FILES} at a time."
            raise ApiError(413, "too_large", message) from error
        raise ApiError(400, "upload_unreadable", "The upload could not be read. Try again.") from error
    except (ClientDisconnect, KeyError, AttributeError) as error:  # no content type, or a field in place of a file
        raise ApiError(400, "upload_broken", "The upload was broken off.") from error
    except OSError as error:
        message = "The page cannot write the file: its disk is full or not writable. Try again later."
        raise ApiError(507, "disk_full", message) from error


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """Chunks of the body, of files of ``most`` bytes. Raises: ApiError, ClientDisconnect."""
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > most + MULTIPART_OVERHEAD_BYTES:
            raise too_large("These files are too large together.", most)
        yield chunk


async def _drain(request: Request) -> None:
    """Read and discard the rest of the body: a browser that is still sending does not read a response."""
    remaining = MAX_DRAINED_BYTES
    with suppress(ClientDisconnect, RuntimeError, TimeoutError):  # RuntimeError: already read to the end
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in request.stream():
                remaining -= len(chunk)
                if remaining <= 0:
                    return


def _store_file(folder: Path, received: UploadFile) -> str:
    """Give a received file its name in a new folder. Returns: its path.

    A browser names a file of a chosen folder by its path from there. The folders below the chosen one are kept above
    the file: a class, or where a page looks for its images.
    """
    received.file.close()
    *folders, name = Path("/", received.filename or "").parts
    below = [] if ".." in folders else folders[2:][-MAX_FOLDERS:]  # the first two are / and the chosen folder
    path = folder.joinpath(*filter(None, map(_clean_name, below)), _clean_name(name) or "file")
    path.parent.mkdir(parents=True)
    os.rename(str(received.file.name), path)
    return str(path)


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


async def _progress_events(under_way: dict[str, FileUploadProgress], name: str) -> AsyncIterator[str]:
    """Server-sent events in Gradio's format: one for each chunk received, one at the end."""
    until = time.monotonic() + PROGRESS_START_SECONDS
    while name not in under_way and time.monotonic() < until:
        await asyncio.sleep(PROGRESS_POLL_SECONDS)
    while (progress := under_way.get(name)) is not None and not progress.is_done(name):
        try:
            step = progress.pop(name)
            yield _message(msg="update", orig_name=step.filename, chunk_size=step.chunk_size)
        except FileUploadProgressNotQueuedError:
            await asyncio.sleep(PROGRESS_POLL_SECONDS)
    yield _message(msg="done")


def _message(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"
