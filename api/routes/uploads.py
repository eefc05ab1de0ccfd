"""Uploads of corpora: a zip in chunks, unpacked where runs can read it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.core.errors import ERROR_RESPONSES, Problem
from api.core.session import in_thread_pool, json_response
from api.deps import StateDep, Submitter, WriteSessionDep, WriteTransactionDep
from api.schemas.data import UploadChunk, UploadRequest, UploadView
from api.services.corpus_uploads import CHUNK_BYTES, CorpusUpload
from api.services.state import AppState
from lcl_core.common.archive import Unpacked
from lcl_core.db import quotas

UploadId = Annotated[str, Path(description="id of the upload")]
router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=ERROR_RESPONSES)


@router.post("", summary="Start upload", status_code=201)
def create(
    body: UploadRequest, principal: Submitter, state: StateDep, session: WriteSessionDep, response: Response
) -> UploadView:
    """Announce a corpus: a zip of any readable format. It is then sent in chunks, and unpacked."""
    with state.database.reading() as reading:
        state.quotas.check_bytes(reading, principal.owner, body.bytes)
    upload = state.uploads.create(principal.owner, body.bytes)  # reads all uploads: no transaction is open meanwhile
    try:
        state.quotas.charge_folder(session, upload.owner, upload.stored_path, upload.bytes)
    except BaseException:
        state.uploads.delete(upload, lambda _: None)
        raise
    response.headers["location"] = f"/v1/uploads/{upload.id}"
    return _view(upload)


@router.get("/{upload_id}", summary="Get upload", response_model=UploadView)
@in_thread_pool("reading_corpora")
def one(upload_id: UploadId, principal: Submitter, state: StateDep) -> Response:
    """How far it is: a client that was interrupted goes on at ``received``."""
    return json_response(_view(state.uploads.find(upload_id, principal.visible_owner)))


@router.post("/{upload_id}/chunks", summary="Send chunk of upload", response_model=UploadView)
@in_thread_pool("reading_corpora")
def append(upload_id: UploadId, body: UploadChunk, principal: Submitter, state: StateDep) -> Response:
    """Add the bytes at ``offset``, at most ``chunk_bytes``. The same chunk may be sent again."""
    upload = state.uploads.find(upload_id, principal.visible_owner)
    return json_response(_view(state.uploads.append(upload, body.offset, _decode(body.data))))


@router.post("/{upload_id}/unpack", summary="Unpack upload")
async def unpack(
    upload_id: UploadId, principal: Submitter, state: StateDep, transaction: WriteTransactionDep
) -> UploadView:
    """Unpack a complete archive. ``path`` is what a run of kind validate or convert names."""
    unpacked = await state.long_reads.run(principal.owner, _unpack, state, upload_id, principal.visible_owner)
    async with transaction():  # for the audit entry
        return _view(*unpacked)


@router.delete("/{upload_id}", summary="Delete upload", status_code=204)
def delete(upload_id: UploadId, principal: Submitter, state: StateDep, _: WriteSessionDep) -> None:
    """Remove it, unpacked or not. Runs that are to read it fail."""

    def release(upload: CorpusUpload) -> None:
        with state.database.session() as session:
            quotas.delete_bytes(session, upload.stored_path)

    state.uploads.delete(state.uploads.find(upload_id, principal.visible_owner), release)


def _unpack(state: AppState, upload_id: str, owner: str | None) -> tuple[CorpusUpload, Unpacked | None]:
    def charge(upload: CorpusUpload, size: int) -> None:
        with state.database.session() as session:
            state.quotas.charge_folder(session, upload.owner, upload.stored_path, size)

    return state.uploads.unpack(state.uploads.find(upload_id, owner), charge)


def _view(upload: CorpusUpload, unpacked: Unpacked | None = None) -> UploadView:
    return UploadView(
        id=upload.id,
        bytes=upload.bytes,
        received=upload.received,
        chunk_bytes=CHUNK_BYTES,
        path=None if upload.corpus is None else str(upload.corpus),
        files=None if unpacked is None else unpacked.files,
        unpacked=upload.unpacking and upload.unpacking[0],
        members=upload.unpacking and upload.unpacking[1],
    )


def _decode(data: str) -> bytes:
    try:
        chunk = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "bad_request", "data is not base64", field="data") from error
    if not 0 < len(chunk) <= CHUNK_BYTES:
        raise Problem(422, "bad_request", f"a chunk has 1 to {CHUNK_BYTES} bytes", field="data")
    return chunk
