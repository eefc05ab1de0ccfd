"""Images added to a collection over REST and embedded by its encoder; changes of labels. All of a call, or none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from anyio import to_thread
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.models import EXAMPLE_IMAGE, PRINTABLE, Content, Line, RequestModel, request_example
from api.services.encoders import check_count, check_text, read_images
from api.services.search import LabelText, open_for_search, with_collection
from api.services.state import AppState
from lcl_core.collections.changes import ChangeRecord, caption_texts
from lcl_core.common.errors import UserError
from lcl_core.db import collections
from lcl_core.db.models import CollectionRow
from lcl_core.serving.dynamic_batcher import gather_results
from lcl_core.specs.corpus_jobs import RESERVED_LABELS

if TYPE_CHECKING:
    from PIL.Image import Image

    from api.deps import WriteTransaction
    from lcl_core.collections.collection import Collection
    from lcl_core.encoders.captioning import PreparedImage
    from lcl_core.serving.batched_engine import BatchedEngine

TEXTS_PER_BATCH = 256
MAX_STORED_IMAGE_BYTES = 200_000  # larger images are stored as thumbnails
MAX_LABELS = 32  # that an image may get here; one of a corpus may have more
ItemName = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PRINTABLE)]
CaptionText = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000, pattern=r"^[^\x00]+$")]
OptionalWord = Annotated[str, StringConstraints(max_length=100, pattern=PRINTABLE.replace("+$", "*$"))]


def _no_reserved_labels(labels: dict[str, Any]) -> dict[str, Any]:
    if taken := next((name for name in RESERVED_LABELS if name in labels), None):
        raise ValueError(f"{taken} is no label: it has a field of its own")
    return labels


LabelValue = Line | Annotated[list[Line], Field(max_length=32, fail_fast=True)]
ItemLabels = Annotated[dict[Line, LabelValue], Field(max_length=32), AfterValidator(_no_reserved_labels)]
NewMembers = Annotated[
    dict[Line, Annotated[list[Line], Field(min_length=1, max_length=32, fail_fast=True)]],
    Field(max_length=32),
    AfterValidator(_no_reserved_labels),
]
OldMembers = Annotated[
    dict[LabelText, Annotated[list[LabelText], Field(min_length=1, max_length=32, fail_fast=True)]],
    Field(max_length=32),
    AfterValidator(_no_reserved_labels),
]


class NewItemRequest(RequestModel):
    image: Content = Field(description="the image as a data URL")
    name: ItemName | None = Field(
        None, description="unique in the collection, the id is made of it; none: the SHA-256 of the image's bytes"
    )
    captions: list[CaptionText] = Field(
        [], max_length=8, description="texts that describe it, which can be searched, too"
    )
    labels: ItemLabels = Field(
        {}, description="{label: value}, by which a search can be filtered; of a set {label: [values]}"
    )
    split: OptionalWord = Field("", description="such as train")
    source: OptionalWord = Field("", description="where it is from")


class AddItemsRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra=request_example(
            items=[{"image": EXAMPLE_IMAGE, "name": "red.png", "captions": ["a red square"]}], replace=True
        )
    )

    items: list[NewItemRequest] = Field(min_length=1, max_length=1000, fail_fast=True, description="kept all, or none")
    replace: bool = Field(False, description="an image takes the place of an older one of its name")


def _new_labels_are_lines(labels: dict[str, Any]) -> dict[str, Any]:
    for name, value in labels.items():
        if value is not None and (not 0 < len(name) <= 100 or not re.fullmatch(PRINTABLE, name)):
            raise ValueError(f"{name[:40]!r} is no name of a label: it has 1 to 100 characters, all of one line")
    return labels


class ChangeLabelsRequest(RequestModel):
    """New values of labels, and members that sets gain and lose, of some images."""

    model_config = ConfigDict(
        json_schema_extra=request_example(ids=["img_0f3c6d1e9ab84753"], add={"tags": ["checked"]})
    )

    ids: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = Field(
        min_length=1, max_length=256, description="of the images; all are changed, or none"
    )
    labels: Annotated[
        dict[LabelText, LabelValue | None],
        Field(max_length=32),
        AfterValidator(_no_reserved_labels),
        AfterValidator(_new_labels_are_lines),
    ] = Field({}, description="{label: value}; null removes the label")
    add: NewMembers = Field({}, description="{label: [values]}, which sets gain")
    remove: OldMembers = Field({}, description="{label: [values]}, which sets lose")

    @model_validator(mode="after")
    def _some_change(self) -> Self:
        if not (self.labels or self.add or self.remove):
            raise ValueError("give at least one of labels, add and remove")
        if both := sorted(self.labels.keys() & (self.add.keys() | self.remove.keys())):
            raise ValueError(f"{both[0]} has a value (labels), so its members cannot be added or removed as well")
        return self


async def add_items(
    state: AppState, transaction: WriteTransaction, name: str, body: AddItemsRequest
) -> tuple[list[str], CollectionRow]:
    """Ids of the items, and the collection's row: all items are written, or none.

    The write transaction begins after the encoder has run.

    Raises: Problem 422 naming the item, 409 without the encoder; UserError as ``collections.add_items``.
    """
    check_count(body.items, "items")
    opened = await to_thread.run_sync(lambda: open_for_search(state, name, ["images"]), limiter=state.opening)
    encoder = opened.encoder
    assert encoder is not None, "requested above"
    for index, item in enumerate(body.items):
        for number, caption in enumerate(item.captions):
            check_text(caption, f"items.{index}.captions.{number}")
    _stored_labels(opened.collection, body.items)  # a bad one is refused before anything is embedded

    def use(raw: bytes, image: Image) -> tuple[str, bytes, str, PreparedImage]:
        from api.services.collection_views import thumbnail  # Pillow

        data, media_type = thumbnail(raw, image, MAX_STORED_IMAGE_BYTES)
        return hashlib.sha256(raw).hexdigest(), data, media_type, encoder.prepare(image)

    urls = {f"items.{index}.image": item.image for index, item in enumerate(body.items)}
    digests, stored, media_types, prepared = zip(*(await read_images(state, urls, use)).values(), strict=True)
    records = _new_records(body.items, digests, media_types)
    vectors = await gather_results(encoder.submit_images(prepared))
    texts = await _text_vectors(encoder, records if opened.collection.has_text_vectors else [])

    def commit() -> tuple[list[str], CollectionRow]:
        with transaction() as writer:

            def add(session: Session, row: CollectionRow, collection: Collection) -> Any:
                """The vectors stay valid; names and types of labels are those of now."""
                session.close()
                labels = _stored_labels(collection, body.items)
                additions = []
                for record, data, vector, values in zip(records, stored, vectors, labels, strict=True):
                    embedded = [texts[text] for text in caption_texts(record) if text in texts]
                    text_vectors = b"".join(map(_float32_bytes, embedded))
                    labelled = {**record, "labels": values}
                    change = ChangeRecord(0, record["id"], labelled, _float32_bytes(vector), text_vectors)
                    additions.append(collections.ItemAddition(change, data))
                digest = opened.collection.encoder_hash
                return collections.add_items(
                    writer, _reference(row, collection), additions, digest, replace=body.replace
                )

            return with_collection(state, opened.id, add, writer)

    return await to_thread.run_sync(commit)


def _new_records(
    items: Sequence[NewItemRequest], digests: Sequence[str], media_types: Sequence[str]
) -> list[dict[str, Any]]:
    """Records without labels. Raises: Problem 422 for two items of one name."""
    from api.services.collection_views import item_id  # numpy

    records: dict[str, dict[str, Any]] = {}
    for index, (item, digest, media_type) in enumerate(zip(items, digests, media_types, strict=True)):
        name = item.name or digest
        if name in records:
            message = f"items.{index}: the same name, or without names the same image, as an item before"
            raise Problem(422, "invalid_value", message, field=f"items.{index}.name")
        records[name] = {
            "id": item_id(name),
            "image": name,
            "captions": list(dict.fromkeys(item.captions)),
            "split": item.split,
            "source": item.source,
            "media_type": media_type,
        }
    return list(records.values())


def remove_item(state: AppState, writer: Session, name: str, item: str) -> None:
    """Raises: UserError as ``collections.remove_item``; Problem 503."""

    def remove(session: Session, row: CollectionRow, collection: Collection) -> None:
        session.close()
        collections.remove_item(writer, _reference(row, collection), item)

    with_collection(state, name, remove, writer)


def change_labels(state: AppState, writer: Session, name: str, body: ChangeLabelsRequest) -> int:
    """Number of images whose labels differ after the change.

    Raises: UserError ``not_found`` or ``invalid_value`` with the field, ``conflict``; Problem 503.
    """

    def change(session: Session, row: CollectionRow, collection: Collection) -> int:
        changed = _relabel(session, row.id, collection, body)
        session.close()
        if changed:
            collections.replace_records(writer, _reference(row, collection), changed, collection.delta.number)
        return len(changed)

    return with_collection(state, name, change, writer)


def _reference(row: CollectionRow, collection: Collection) -> collections.CollectionRef:
    return collections.CollectionRef(row.id, row.path, collection.in_base)


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
            raise UserError(message, field=f"ids.{body.ids.index(record['id'])}")
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
    """Of each item, as the collection stores them. Raises: UserError ``invalid_value`` that names the item's label."""
    return [collection.stored_labels(item.labels, f"items.{index}") for index, item in enumerate(items)]


async def _text_vectors(encoder: BatchedEngine, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """f32 [E] by caption."""
    texts = list(dict.fromkeys(text for record in records for text in caption_texts(record)))
    vectors: dict[str, Any] = {}
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        chunk = texts[start : start + TEXTS_PER_BATCH]
        vectors.update(zip(chunk, await gather_results(encoder.submit_texts(chunk)), strict=True))
    return vectors


def _float32_bytes(vector: Any) -> bytes:
    data: bytes = vector.astype("<f4").tobytes()
    return data
