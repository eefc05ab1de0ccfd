"""Collections that change: pictures are added and removed, all of it is taken out, and it goes."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks, Response
from fastapi.responses import StreamingResponse

from api.additions import add as add_pictures
from api.additions import remove as remove_picture
from api.answers import sends
from api.callers import check_owner
from api.collection_models import Added, Additions
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer, WritingDep
from api.errors import REFUSALS
from api.exports import lines_of
from api.routes.collections import Target
from api.routes.runs import IdempotencyKey
from api.search import open_collection
from lcl_core.runs import store
from lcl_core.runs.artifacts import remove_tree

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=REFUSALS)
LINES = "application/x-ndjson"


@router.post("/{name}/items", status_code=201)
async def add(
    name: str,
    body: Additions,
    caller: Submitter,
    context: ContextDep,
    session: ReaderDep,
    writing: WritingDep,
    idempotency_key: IdempotencyKey = None,
) -> Added:
    """Embed pictures with the collection's own encoder and keep them: all of a call, or none.

    The next search of every process finds them. The same Idempotency-Key and body give the same answer for a day.
    """
    ids, row = await add_pictures(context, session, writing, name, body, caller.owner, idempotency_key)
    return Added(ids=ids, images=row.images)


@router.delete("/{name}/items/{item}", status_code=204)
def remove(name: str, item: str, _: Submitter, context: ContextDep, reader: ReaderDep, session: SessionDep) -> None:
    """Take a picture out; a text that no other picture carries goes with it."""
    remove_picture(context, reader, session, name, item)


@router.delete("/{name}", status_code=204)
def delete(name: str, caller: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> None:
    """Remove a collection and its folder; for its owner and admins."""
    row = store.get_collection(session, name)
    check_owner(caller, "collection", row.name, row.owner)
    store.delete_collection(session, row)
    after.add_task(store.drop_vectors, context.database, row.vectors)
    after.add_task(remove_tree, store.located(context.settings.home, row.path))


@router.get("/{name}/export", response_class=Response, responses=sends(LINES))
def export(
    name: str, _: Viewer, context: ContextDep, session: ReaderDep, target: Target = "images"
) -> StreamingResponse:
    """What it holds now, changes included, a JSON object a line: the record, ``encoder_hash`` and ``vector``."""
    row, collection = open_collection(context, session, name)
    headers = {"content-disposition": f'attachment; filename="{row.id}.{target}.jsonl"'}
    # Nothing is held for it, as an encoder's files are: what it reads is in memory or mapped since it was opened, and
    # stays readable though the folder be removed or replaced meanwhile.
    return StreamingResponse(lines_of(collection, target), media_type=LINES, headers=headers)
