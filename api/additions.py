"""Pictures that a request adds to a collection: read one by one, embedded by its encoder, kept all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from sqlalchemy.orm import Session

from api.collection_models import Additions, NewPicture
from api.context import Context
from api.deps import Writing
from api.errors import Problem
from api.image_reading import RequestImages, read_images
from api.media import check_count, check_text, decoded
from api.search import Searched, open_collection, open_for_search
from api.settings import ApiSettings
from lcl_core.runs import store
from lcl_core.runs.tables import Collection

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession

# Of a picture in the database. What is larger is made smaller, as a gallery shows it.
KEPT_BYTES = 200_000
TEXTS_AT_ONCE = 256
_TRIES = 5


@dataclass(frozen=True)
class _Read:
    """A picture that was found good; its vector is on its way."""

    record: dict[str, Any]
    data: bytes
    vector: Future[Any]


async def add(
    context: Context, reader: Session, writing: Writing, name: str, body: Additions, owner: str, key: str | None
) -> tuple[list[str], Collection]:
    """The ids, and the collection's row. Nothing is written unless everything is good. Ends ``reader``.

    No turn to write is held while the encoder runs.

    Args:
        owner: who asks; ``key``: by which a repetition is known.

    Raises: Problem 422 naming the item, 409 without its encoder; UserError as ``store.add_pictures``.
    """
    from lcl_core.serving.futures import gather  # numpy: only when an encoder is asked

    lane, settings = context.inferring, context.settings
    check_count(body.items, settings, "items")
    request, done = await to_thread.run_sync(_begin, reader, name, body, owner, key, limiter=lane)
    if done is not None:
        return done
    urls = {f"items.{place}.image": item.image for place, item in enumerate(body.items)}

    def begin() -> tuple[BatchingSession, Searched]:
        searched = open_for_search(context, reader, name, True)
        assert searched.encoder is not None, "it was asked for"
        return searched.encoder, searched

    def read(
        encoder: BatchingSession, searched: Searched, images: RequestImages
    ) -> tuple[BatchingSession, Searched, list[_Read]]:
        return encoder, searched, _read(body.items, images, encoder, settings)

    encoder, searched, found = await read_images(context, owner, urls, begin, read)
    vectors = await gather([picture.vector for picture in found])
    texts = await _text_vectors(encoder, [picture.record for picture in found])
    pictures = [_picture(each, vector, texts) for each, vector in zip(found, vectors, strict=True)]

    async with writing() as writer:
        keep = partial(_keep, context, reader, writer, searched, pictures, owner, replace=body.replace, request=request)
        return await to_thread.run_sync(keep)


def _begin(
    reader: Session, name: str, body: Additions, owner: str, key: str | None
) -> tuple[store.Request | None, tuple[list[str], Collection] | None]:
    """By what a repetition is known, and the answer if this is one. Raises: UserError."""
    row = store.get_collection(reader, name)
    if key is None:
        return None, None
    request = store.Request(owner, key, store.hash_of({"collection": row.name, **body.model_dump()}))
    ids = store.repeated(reader, request)
    return request, None if ids is None else (ids, row)


def remove(context: Context, reader: Session, writer: Session, name: str, item: str) -> None:
    """Raises: UserError as ``store.remove_picture``."""
    for _ in range(_TRIES):
        row, collection = open_collection(context, reader, name)
        reader.close()
        try:
            store.remove_picture(writer, store.Opened(row.id, row.path, collection.in_directory), item)
            return
        except store.Moved:
            writer.rollback()
    raise _busy(name)


def _keep(
    context: Context,
    reader: Session,
    writer: Session,
    searched: Searched,
    pictures: Sequence[store.Picture],
    owner: str,
    **how: Any,
) -> tuple[list[str], Collection]:
    """Where the directory was folded while the encoder ran, the vectors are good still: names are compared anew."""
    opened = store.Opened(searched.id, searched.path, searched.collection.in_directory)
    for _ in range(_TRIES):
        try:
            ids = store.repeated(writer, how["request"])
            if ids is None:
                context.quotas.keep_addition(writer, owner, opened.id, sum(map(_size, pictures)))
            return store.add_pictures(writer, opened, pictures, searched.collection.encoder_hash, **how)
        except store.Moved:
            writer.rollback()
        row, collection = open_collection(context, reader, searched.id)
        reader.close()
        opened = store.Opened(row.id, row.path, collection.in_directory)
    raise _busy(searched.id)


def _busy(name: str) -> Problem:
    message = f"collection {name!r} is being made anew at this moment; try again"
    return Problem(503, "collection_busy", message, headers={"retry-after": "1"})


def _read(
    items: Sequence[NewPicture], images: RequestImages, encoder: BatchingSession, settings: ApiSettings
) -> list[_Read]:
    """One after another: decoded they are large, and only what the encoder looks at is kept of each.

    Raises: Problem 422 naming the item.
    """
    from lcl_core.serving.pictures import gallery_bytes

    found: list[_Read] = []
    names: dict[str, int] = {}
    for place, item in enumerate(items):
        field = f"items.{place}"
        for number, caption in enumerate(item.captions):
            check_text(caption, settings, f"{field}.captions.{number}")
        raw = images.raw(f"{field}.image")
        picture = decoded(raw, settings, f"{field}.image")
        name = item.name or hashlib.sha256(raw).hexdigest()
        if name in names:
            message = f"{field}: the same name, or without names the same picture, as items.{names[name]}"
            raise Problem(422, "duplicate_item", message, field=f"{field}.name")
        names[name] = place
        (vector,) = encoder.submit_images([picture])
        data, media_type = gallery_bytes(raw, picture, KEPT_BYTES)
        del raw, picture  # before the next one is decoded
        found.append(_Read(_record(item, name, media_type), data, vector))
    return found


def _record(item: NewPicture, name: str, media_type: str) -> dict[str, Any]:
    from lcl_core.serving import layout

    return {
        "id": f"{layout.ITEM_PREFIX}{layout.key_of(name):016x}",
        "image": name,
        "captions": list(dict.fromkeys(item.captions)),
        "labels": item.labels,
        "split": item.split,
        "source": item.source,
        "media_type": media_type,
    }


async def _text_vectors(encoder: BatchingSession, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By text, f32 [E]."""
    from lcl_core.serving.changes import texts_of

    texts = list(dict.fromkeys(text for record in records for text in texts_of(record)))
    found: dict[str, Any] = {}
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        chunk = texts[start : start + TEXTS_AT_ONCE]
        found.update(zip(chunk, await encoder.embed_texts_async(chunk), strict=True))
    return found


def _picture(found: _Read, vector: Any, texts: dict[str, Any]) -> store.Picture:
    from lcl_core.serving.changes import Change, texts_of

    more = b"".join(_bytes(texts[text]) for text in texts_of(found.record))
    change = Change(0, found.record["id"], found.record, _bytes(vector), more)
    return store.Picture(change, found.data)


def _size(picture: store.Picture) -> int:
    """Bytes that it takes in the database, its record aside."""
    return len(picture.data) + len(picture.change.vector) + len(picture.change.text_vectors)


def _bytes(vector: Any) -> bytes:
    data: bytes = vector.astype("<f4").tobytes()
    return data
