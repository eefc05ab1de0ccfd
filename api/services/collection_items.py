"""Images added to a collection over REST: decoded one by one, embedded by its encoder, written all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.settings import ApiSettings
from api.core.state import AppState
from api.deps import WriteTransaction
from api.schemas.collections import AddItemsRequest, NewItemRequest
from api.services.media import RequestImages, check_count, check_text, decode_upload, read_images
from api.services.search import OpenedCollection, open_collection, open_for_search
from lcl_core.db import collections, registry, submit
from lcl_core.db.models import CollectionRow

if TYPE_CHECKING:
    from lcl_core.serving.batched_engine import BatchedEngine

# Of a picture in the database. What is larger is made smaller, as a gallery shows it.
MAX_STORED_IMAGE_BYTES = 200_000
TEXTS_PER_BATCH = 256
_MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class _SubmittedImage:
    """A picture that was found good; its vector is on its way."""

    record: dict[str, Any]
    data: bytes
    vector: Future[Any]


async def add_items(
    context: AppState,
    reader: Session,
    writing: WriteTransaction,
    name: str,
    body: AddItemsRequest,
    owner: str,
    key: str | None,
) -> tuple[list[str], CollectionRow]:
    """The ids, and the collection's row. Nothing is written unless everything is good. Ends ``reader``.

    No turn to write is held while the encoder runs.

    Args:
        owner: who asks; ``key``: by which a repetition is known.

    Raises: Problem 422 naming the item, 409 without its encoder; UserError as ``store.add_pictures``.
    """
    from lcl_core.serving.dynamic_batcher import gather_results  # numpy: only when an encoder is asked

    lane, settings = context.inferring, context.settings
    check_count(body.items, settings, "items")
    request, done = await to_thread.run_sync(_find_repetition, reader, name, body, owner, key, limiter=lane)
    if done is not None:
        return done
    urls = {f"items.{place}.image": item.image for place, item in enumerate(body.items)}

    def begin() -> tuple[BatchedEngine, OpenedCollection]:
        searched = open_for_search(context, reader, name, True)
        assert searched.encoder is not None, "it was asked for"
        return searched.encoder, searched

    def read(
        encoder: BatchedEngine, searched: OpenedCollection, images: RequestImages
    ) -> tuple[BatchedEngine, OpenedCollection, list[_SubmittedImage]]:
        return encoder, searched, _submit_images(body.items, images, encoder, settings)

    encoder, searched, found = await read_images(context, owner, urls, begin, read)
    vectors = await gather_results([picture.vector for picture in found])
    texts = await _text_vectors(encoder, [picture.record for picture in found])
    pictures = [_new_item(each, vector, texts) for each, vector in zip(found, vectors, strict=True)]

    async with writing() as writer:
        keep = partial(
            _write_items, context, reader, writer, searched, pictures, owner, replace=body.replace, request=request
        )
        return await to_thread.run_sync(keep)


def _find_repetition(
    reader: Session, name: str, body: AddItemsRequest, owner: str, key: str | None
) -> tuple[collections.IdempotentRequest | None, tuple[list[str], CollectionRow] | None]:
    """By what a repetition is known, and the answer if this is one. Raises: UserError."""
    row = registry.get_collection(reader, name)
    if key is None:
        return None, None
    request = collections.IdempotentRequest(owner, key, submit.hash_body({"collection": row.name, **body.model_dump()}))
    ids = collections.find_repeated_addition(reader, request)
    return request, None if ids is None else (ids, row)


def remove_item(context: AppState, reader: Session, writer: Session, name: str, item: str) -> None:
    """Raises: UserError as ``store.remove_picture``."""
    for _ in range(_MAX_ATTEMPTS):
        row, collection = open_collection(context, reader, name)
        reader.close()
        try:
            collections.remove_item(writer, collections.CollectionRef(row.id, row.path, collection.in_base), item)
            return
        except collections.CollectionReplaced:
            writer.rollback()
    raise _busy(name)


def _write_items(
    context: AppState,
    reader: Session,
    writer: Session,
    searched: OpenedCollection,
    pictures: Sequence[collections.ItemAddition],
    owner: str,
    **how: Any,
) -> tuple[list[str], CollectionRow]:
    """Where the directory was folded while the encoder ran, the vectors are good still: names are compared anew."""
    opened = collections.CollectionRef(searched.id, searched.path, searched.collection.in_base)
    for _ in range(_MAX_ATTEMPTS):
        try:
            ids = collections.find_repeated_addition(writer, how["request"])
            if ids is None:
                context.quotas.charge_addition(writer, owner, opened.id, sum(map(_item_bytes, pictures)))
            return collections.add_items(writer, opened, pictures, searched.collection.encoder_hash, **how)
        except collections.CollectionReplaced:
            writer.rollback()
        row, collection = open_collection(context, reader, searched.id)
        reader.close()
        opened = collections.CollectionRef(row.id, row.path, collection.in_base)
    raise _busy(searched.id)


def _busy(name: str) -> Problem:
    message = f"collection {name!r} is being made anew at this moment; try again"
    return Problem(503, "collection_busy", message, headers={"retry-after": "1"})


def _submit_images(
    items: Sequence[NewItemRequest], images: RequestImages, encoder: BatchedEngine, settings: ApiSettings
) -> list[_SubmittedImage]:
    """One after another: decoded they are large, and only what the encoder looks at is kept of each.

    Raises: Problem 422 naming the item.
    """
    from lcl_core.collections.preview import thumbnail

    found: list[_SubmittedImage] = []
    names: dict[str, int] = {}
    for place, item in enumerate(items):
        field = f"items.{place}"
        for number, caption in enumerate(item.captions):
            check_text(caption, settings, f"{field}.captions.{number}")
        raw = images.raw(f"{field}.image")
        picture = decode_upload(raw, settings, f"{field}.image")
        name = item.name or hashlib.sha256(raw).hexdigest()
        if name in names:
            message = f"{field}: the same name, or without names the same picture, as items.{names[name]}"
            raise Problem(422, "duplicate_item", message, field=f"{field}.name")
        names[name] = place
        (vector,) = encoder.submit_images([picture])
        data, media_type = thumbnail(raw, picture, MAX_STORED_IMAGE_BYTES)
        del raw, picture  # before the next one is decoded
        found.append(_SubmittedImage(_record(item, name, media_type), data, vector))
    return found


def _record(item: NewItemRequest, name: str, media_type: str) -> dict[str, Any]:
    from lcl_core.collections import file_format

    return {
        "id": f"{file_format.ITEM_PREFIX}{file_format.stable_hash64(name):016x}",
        "image": name,
        "captions": list(dict.fromkeys(item.captions)),
        "labels": item.labels,
        "split": item.split,
        "source": item.source,
        "media_type": media_type,
    }


async def _text_vectors(encoder: BatchedEngine, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By text, f32 [E]."""
    from lcl_core.collections.records import caption_texts

    texts = list(dict.fromkeys(text for record in records for text in caption_texts(record)))
    found: dict[str, Any] = {}
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        chunk = texts[start : start + TEXTS_PER_BATCH]
        found.update(zip(chunk, await encoder.embed_texts_async(chunk), strict=True))
    return found


def _new_item(found: _SubmittedImage, vector: Any, texts: dict[str, Any]) -> collections.ItemAddition:
    from lcl_core.collections.records import ChangeRecord, caption_texts

    more = b"".join(_float32_bytes(texts[text]) for text in caption_texts(found.record))
    change = ChangeRecord(0, found.record["id"], found.record, _float32_bytes(vector), more)
    return collections.ItemAddition(change, found.data)


def _item_bytes(picture: collections.ItemAddition) -> int:
    """Bytes that it takes in the database, its record aside."""
    return len(picture.data) + len(picture.change.vector) + len(picture.change.text_vectors)


def _float32_bytes(vector: Any) -> bytes:
    data: bytes = vector.astype("<f4").tobytes()
    return data
