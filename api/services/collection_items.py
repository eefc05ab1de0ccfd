"""Images added to a collection over REST and embedded by its encoder; changes of labels. All of a call, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import to_thread
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.schemas.collections import AddItemsRequest, ChangeLabelsRequest, NewItemRequest
from api.services.media import Submitted, check_count, check_text, read_images
from api.services.search import MAX_ATTEMPTS, OpenedCollection, collection_busy, open_collection, open_for_search
from api.services.state import AppState
from lcl_core.collections.records import ChangeRecord, caption_texts
from lcl_core.common.errors import UserError
from lcl_core.db import collections
from lcl_core.db.models import CollectionRow
from lcl_core.serving.dynamic_batcher import gather_results

if TYPE_CHECKING:
    from api.deps import WriteTransaction
    from api.services.request_images import RequestImages
    from lcl_core.collections.collection import Collection
    from lcl_core.serving.batched_engine import BatchedEngine

TEXTS_PER_BATCH = 256
Result = TypeVar("Result")
MAX_LABELS = 32  # that an image may get here; one of a corpus may have more


@dataclass(frozen=True)
class _SubmittedImage:
    """A valid image whose vector is being computed."""

    record: dict[str, Any]
    data: bytes
    vector: Future[Any]


async def add_items(
    state: AppState,
    reader: Session,
    transaction: WriteTransaction,
    name: str,
    body: AddItemsRequest,
) -> tuple[list[str], CollectionRow]:
    """Ids of the items, and the collection's row: all items are written, or none. Closes ``reader``.

    The write transaction begins after the encoder has run.

    Raises: Problem 422 naming the item, 409 without the encoder; UserError as ``collections.add_items``.
    """
    check_count(body.items, "items")

    def begin() -> tuple[BatchedEngine, OpenedCollection]:
        opened = open_for_search(state, reader, name, ["images"])
        assert opened.encoder is not None, "requested above"
        return opened.encoder, opened

    def read(
        encoder: BatchedEngine, opened: OpenedCollection, images: RequestImages
    ) -> Submitted[tuple[BatchedEngine, OpenedCollection, list[_SubmittedImage]]]:
        _stored_labels(opened.collection, body.items)  # a bad one is refused before anything is embedded
        submitted = _submit_images(body.items, images, encoder)
        return [image.vector for image in submitted], (encoder, opened, submitted)

    urls = {f"items.{index}.image": item.image for index, item in enumerate(body.items)}
    futures, (encoder, opened, submitted) = await read_images(state, urls, begin, read)
    vectors = await gather_results(futures)
    records = [image.record for image in submitted] if opened.collection.has_text_vectors else []
    texts = await _text_vectors(encoder, records)
    additions = [_addition(image, vector, texts) for image, vector in zip(submitted, vectors, strict=True)]

    def write(writer: Session) -> tuple[list[str], CollectionRow]:
        """The vectors stay valid; names and types of labels are those of now."""

        def add(_: CollectionRow, collection: Collection, ref: collections.CollectionRef) -> Any:
            labels = _stored_labels(collection, body.items)
            return collections.add_items(
                writer,
                ref,
                [_with_labels(addition, each) for addition, each in zip(additions, labels, strict=True)],
                opened.collection.encoder_hash,
                replace=body.replace,
            )

        return _change_open_collection(state, reader, writer, opened.id, add)

    def commit() -> tuple[list[str], CollectionRow]:
        with transaction() as writer:
            return write(writer)

    return await to_thread.run_sync(commit)


def remove_item(state: AppState, reader: Session, writer: Session, name: str, item: str) -> None:
    """Raises: UserError as ``collections.remove_item``; Problem 503."""
    _change_open_collection(
        state, reader, writer, name, lambda _row, _collection, ref: collections.remove_item(writer, ref, item)
    )


def change_labels(
    state: AppState, reader: Session, writer: Session, name: str, body: ChangeLabelsRequest, owner: str
) -> int:
    """Number of images whose labels differ after the change.

    Raises: UserError ``item_not_found`` or ``bad_label`` with the field, ``conflict``; Problem 503.
    """

    def change(row: CollectionRow, collection: Collection, ref: collections.CollectionRef) -> int:
        changed = _relabel(reader, row.id, collection, body)
        reader.close()
        if changed:
            collections.replace_records(writer, ref, changed, collection.delta.number)
        return len(changed)

    return _change_open_collection(state, reader, writer, name, change)


def _change_open_collection(
    state: AppState,
    reader: Session,
    writer: Session,
    name: str,
    change: Callable[[CollectionRow, Collection, collections.CollectionRef], Result],
) -> Result:
    """What ``change`` returns, called again where an index run has replaced the open directory meanwhile."""
    for _ in range(MAX_ATTEMPTS):
        row, collection = open_collection(state, reader, name)
        try:
            return change(row, collection, collections.CollectionRef(row.id, row.path, collection.in_base))
        except collections.CollectionReplaced:
            writer.rollback()
        finally:
            reader.close()
    raise collection_busy(name)


def _relabel(
    reader: Session, collection_id: str, collection: Collection, body: ChangeLabelsRequest
) -> list[collections.ItemAddition]:
    """The images whose labels the request changes: new records, vectors and bytes as they are.

    Bytes that the directory has are not stored a second time.

    Raises: CollectionReplaced if an image has been removed or compacted meanwhile; UserError.
    """
    changed = []
    for record in collection.change_labels(body.ids, body.labels, body.add, body.remove):
        if len(record["labels"]) > max(MAX_LABELS, len(collection.item(record["id"])["labels"])):
            message = f"image {record['id']} would have {len(record['labels'])} labels, of {MAX_LABELS} that it may"
            raise UserError(message, code="bad_label", field=f"ids.{body.ids.index(record['id'])}")
        data = None
        if not collection.has_image_bytes(record["id"]):
            data = collections.item_image(reader, collection_id, record["id"])
            if data is None:
                raise collections.CollectionReplaced
        text_vectors = b"".join(map(_float32_bytes, collection.caption_vectors(record)))
        vector = _float32_bytes(collection.vector(record["id"]))
        change = ChangeRecord(0, record["id"], record, vector, text_vectors)
        changed.append(collections.ItemAddition(change, data))
    return changed


def _stored_labels(collection: Collection, items: Sequence[NewItemRequest]) -> list[dict[str, str]]:
    """Of each item, as the collection stores them. Raises: UserError ``bad_label`` that names the item's label."""
    return [collection.stored_labels(item.labels, f"items.{index}") for index, item in enumerate(items)]


def _with_labels(addition: collections.ItemAddition, labels: dict[str, str]) -> collections.ItemAddition:
    assert addition.change.record is not None, "it is not a removal"
    return replace(addition, change=replace(addition.change, record={**addition.change.record, "labels": labels}))


def _submit_images(
    items: Sequence[NewItemRequest], images: RequestImages, encoder: BatchedEngine
) -> list[_SubmittedImage]:
    """Decode and submit one image after another. Raises: Problem 422 naming the item."""
    from api.services.collection_views import item_id, stored_image  # numpy, Pillow

    submitted: list[_SubmittedImage] = []
    names: dict[str, int] = {}
    for index, item in enumerate(items):
        field = f"items.{index}"
        for number, caption in enumerate(item.captions):
            check_text(caption, f"{field}.captions.{number}")
        raw = images.raw(f"{field}.image")
        image = images.decode(raw, f"{field}.image")
        name = item.name or hashlib.sha256(raw).hexdigest()
        if name in names:
            message = f"{field}: the same name, or without names the same image, as items.{names[name]}"
            raise Problem(422, "bad_request", message, field=f"{field}.name")
        names[name] = index
        (vector,) = encoder.submit_images([image])
        data, media_type = stored_image(raw, image)
        del raw, image  # before the next one is decoded
        record = {
            "id": item_id(name),
            "image": name,
            "captions": list(dict.fromkeys(item.captions)),
            "labels": {},  # of the types that the collection has when the image is written
            "split": item.split,
            "source": item.source,
            "media_type": media_type,
        }
        submitted.append(_SubmittedImage(record, data, vector))
    return submitted


async def _text_vectors(encoder: BatchedEngine, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """f32 [E] by caption."""
    texts = list(dict.fromkeys(text for record in records for text in caption_texts(record)))
    vectors: dict[str, Any] = {}
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        chunk = texts[start : start + TEXTS_PER_BATCH]
        vectors.update(zip(chunk, await gather_results(encoder.submit_texts(chunk)), strict=True))
    return vectors


def _addition(image: _SubmittedImage, vector: Any, texts: dict[str, Any]) -> collections.ItemAddition:
    embedded = [texts[text] for text in caption_texts(image.record) if text in texts]
    text_vectors = b"".join(map(_float32_bytes, embedded))
    change = ChangeRecord(0, image.record["id"], image.record, _float32_bytes(vector), text_vectors)
    return collections.ItemAddition(change, image.data)


def _float32_bytes(vector: Any) -> bytes:
    data: bytes = vector.astype("<f4").tobytes()
    return data
