"""Uploads of corpora: a zip as the body of one request, unpacked where runs can read it."""

from __future__ import annotations

from typing import Annotated

from anyio import CancelScope, to_thread
from fastapi import APIRouter, Path, Request, Response

from api.core.errors import ERROR_RESPONSES
from api.deps import StateDep, Submitter, WriteSessionDep, WriteTransactionDep
from api.schemas.data import UploadView
from api.services.corpus_uploads import (
    corpus_folder,
    find_upload,
    make_upload,
    receive_archive,
    stored_path,
    unpack_archive,
)
from lcl_core.common.files import remove_tree
from lcl_core.db import uploads

UploadId = Annotated[str, Path(description="id of the upload")]
router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=ERROR_RESPONSES)
ZIP_BODY = {"required": True, "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}


@router.post("", summary="Upload corpus", status_code=201, openapi_extra={"requestBody": ZIP_BODY})
async def create(
    request: Request, principal: Submitter, state: StateDep, transaction: WriteTransactionDep, response: Response
) -> UploadView:
    """Send a corpus in any readable format as a zip, and unpack it. Runs of kind validate and convert name ``path``."""
    settings, threads = state.settings, state.long_reads
    folder = await to_thread.run_sync(make_upload, settings.home, principal.owner)
    try:
        await receive_archive(folder, request.stream(), settings.max_upload_bytes, settings.body_seconds, threads)
        unpacked = await to_thread.run_sync(unpack_archive, folder, settings.max_upload_bytes, limiter=threads)
        response.headers["location"] = f"/v1/uploads/{folder.name}"
        async with transaction() as session:
            # removed after a while unless a dataset or an unfinished run names it
            await to_thread.run_sync(uploads.discard, session, uploads.ANY_HOME, stored_path(folder.name))
    except BaseException:
        with CancelScope(shield=True):  # the client may have disconnected
            await to_thread.run_sync(remove_tree, folder)
        raise
    path = str(corpus_folder(folder))
    return UploadView(id=folder.name, bytes=unpacked.bytes, path=path, files=unpacked.files)


@router.delete("/{upload_id}", summary="Delete upload", status_code=204)
def delete(upload_id: UploadId, principal: Submitter, state: StateDep, _: WriteSessionDep) -> None:
    """Remove its files. Runs that are to read them fail."""
    folder = find_upload(state.settings.home, upload_id, principal.visible_owner)
    remove_tree(folder)
