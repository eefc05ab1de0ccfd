"""Collections that change: pictures are added and removed, all of it is taken out, and it goes."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks, Response
from fastapi.responses import StreamingResponse

from api.core.auth import check_owner
from api.core.errors import ERROR_RESPONSES
from api.core.responses import documented_responses, stream_in_threads
from api.core.session import in_thread_pool
from api.deps import ReadSessionDep, StateDep, Submitter, Viewer, WriteSessionDep, WriteTransactionDep
from api.routes.collections import Target
from api.routes.runs import IdempotencyKey
from api.schemas.collections import AddedItemsView, AddItemsRequest
from api.services.collection_items import add_items as add_pictures
from api.services.collection_items import remove_item as remove_picture
from api.services.collections import stream_vectors
from api.services.search import open_collection
from lcl_core.common.files import remove_tree
from lcl_core.db import collections, pgvector, registry

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=ERROR_RESPONSES)
LINES = "application/x-ndjson"


@router.post("/{name}/items", status_code=201)
async def add(
    name: str,
    body: AddItemsRequest,
    caller: Submitter,
    context: StateDep,
    session: ReadSessionDep,
    writing: WriteTransactionDep,
    idempotency_key: IdempotencyKey = None,
) -> AddedItemsView:
    """Embed pictures with the collection's own encoder and keep them: all of a call, or none.

    The next search of every process finds them. The same Idempotency-Key and body give the same answer for a day.
    """
    ids, row = await add_pictures(context, session, writing, name, body, caller.owner, idempotency_key)
    return AddedItemsView(ids=ids, images=row.images)


@router.delete("/{name}/items/{item}", status_code=204)
def remove(
    name: str, item: str, _: Submitter, context: StateDep, reader: ReadSessionDep, session: WriteSessionDep
) -> None:
    """Take a picture out; a text that no other picture carries goes with it."""
    remove_picture(context, reader, session, name, item)


@router.delete("/{name}", status_code=204)
def delete(name: str, caller: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> None:
    """Remove a collection and its folder; for its owner and admins."""
    row = registry.get_collection(session, name)
    check_owner(caller, "collection", row.name, row.owner)
    collections.delete_collection(session, row)
    after.add_task(pgvector.drop_vectors, context.database, row.vectors)
    after.add_task(remove_tree, registry.absolute_path(context.settings.home, row.path))


@router.get("/{name}/export", response_class=Response, responses=documented_responses(LINES))
@in_thread_pool("exporting")
def export(
    name: str, _: Viewer, context: StateDep, session: ReadSessionDep, target: Target = "images"
) -> StreamingResponse:
    """What it holds now, changes included, a JSON object a line: the record, ``encoder_hash`` and ``vector``."""
    row, collection = open_collection(context, session, name)
    headers = {"content-disposition": f'attachment; filename="{row.id}.{target}.jsonl"'}
    # Nothing is held for it, as an encoder's files are: what it reads is in memory or mapped since it was opened, and
    # stays readable though the folder be removed or replaced meanwhile.
    lines = stream_in_threads(context.exporting, stream_vectors(collection, target))
    return StreamingResponse(lines, media_type=LINES, headers=headers)
