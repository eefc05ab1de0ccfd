"""Uploads of corpora: a zip as the body of one request, unpacked where runs can read it.

The folder of an upload, below ``$LCL_HOME/data/uploads``, has ``upload.json`` (its owner) and ``corpus``. What no
dataset and no unfinished run names is garbage after the grace period (``lcl_core.db.garbage``).
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from anyio import CancelScope, to_thread
from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from api.core.errors import ERROR_RESPONSES, Problem
from api.deps import StateDep, Submitter, WriteSessionDep, WriteTransactionDep
from lcl_core.common.archive import Unpacked, unpack_zip
from lcl_core.common.files import remove_tree, write_json_atomically
from lcl_core.db import artifacts
from lcl_core.db.models import UPLOAD_PREFIX, UPLOADS_FOLDER, new_id

MAX_FILES = 100_000
_ID = re.compile(rf"{UPLOAD_PREFIX}_[0-9a-z]{{18}}")
_INFO, _ARCHIVE, _CORPUS = "upload.json", "archive.zip", "corpus"


class UploadView(BaseModel):
    id: str = Field(description="id of the upload")
    bytes: int = Field(description="of its files, unpacked")
    files: int = Field(description="number of them")
    path: str = Field(description="folder of the corpus on the server")


UploadId = Annotated[str, PathParameter(description="id of the upload")]
router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=ERROR_RESPONSES)
ZIP_BODY = {"required": True, "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}


@router.post("", summary="Upload corpus", status_code=201, openapi_extra={"requestBody": ZIP_BODY})
async def create(
    request: Request, principal: Submitter, state: StateDep, transaction: WriteTransactionDep, response: Response
) -> UploadView:
    """Send a corpus in any readable format as a zip, and unpack it. Runs of kind validate and convert name ``path``."""
    upload_id, most = new_id(UPLOAD_PREFIX), state.settings.max_upload_bytes
    folder = state.settings.home.resolve() / stored_path(upload_id)

    def make_folder() -> None:
        folder.mkdir(mode=0o700, parents=True)
        write_json_atomically(folder / _INFO, {"owner": principal.owner})

    def unpack() -> Unpacked:
        unpacked = unpack_zip(folder / _ARCHIVE, folder / _CORPUS, max_bytes=most, max_files=MAX_FILES)
        if not unpacked.files:
            raise Problem(422, "invalid_value", "there is no file in the archive")
        (folder / _ARCHIVE).unlink()
        response.headers["location"] = f"/v1/uploads/{upload_id}"
        with transaction() as session:  # removed after a while unless a dataset or an unfinished run names it
            artifacts.discard(session, artifacts.ANY_HOME, stored_path(upload_id))
        return unpacked

    try:
        await to_thread.run_sync(make_folder)
        received = 0
        with (folder / _ARCHIVE).open("xb") as file:
            async for chunk in request.stream():
                received += len(chunk)
                if received > most:
                    message = f"the archive has more than {most} bytes; put the corpus into a data root instead"
                    raise Problem(413, "too_large", message)
                await to_thread.run_sync(file.write, chunk)
        unpacked = await to_thread.run_sync(unpack)
    except BaseException:
        with CancelScope(shield=True):  # the client may have disconnected
            await to_thread.run_sync(remove_tree, folder)
        raise
    return UploadView(id=upload_id, bytes=unpacked.bytes, path=str(corpus_folder(folder)), files=unpacked.files)


@router.delete("/{upload_id}", summary="Delete upload", status_code=204)
def delete(upload_id: UploadId, principal: Submitter, state: StateDep, _: WriteSessionDep) -> None:
    """Remove its files. Runs that are to read them fail."""
    folder = find_upload(state.settings.home, upload_id, principal.visible_owner)
    remove_tree(folder)


def stored_path(upload_id: str) -> str:
    """Of the folder below the home, by which its bytes are charged."""
    return f"{UPLOADS_FOLDER}/{upload_id}"


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
