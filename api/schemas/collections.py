"""Collections: views, search, items, near-duplicates and maps."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticKnownError

from api.schemas.base import PRINTABLE, Line, Reference, RequestModel, RowView, request_example, row_view
from api.schemas.inference import EXAMPLE_IMAGE, Content
from lcl_core.db.models import CollectionRow
from lcl_core.specs.corpus_jobs import RESERVED_LABELS, LabelType

ItemName = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PRINTABLE)]
CaptionText = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000, pattern=r"^[^\x00]+$")]
OptionalWord = Annotated[str, StringConstraints(max_length=100, pattern=PRINTABLE.replace("+$", "*$"))]
Weight = Annotated[float, Field(ge=-100, le=100)]
Target = Literal["images", "texts"]
MapMethod = Literal["pca", "tsne"]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
# of images of a corpus, whose labels may be longer than those that are given here
LabelText = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
LabelTexts = Annotated[list[LabelText], Field(max_length=1000, fail_fast=True)]
QUERY_PARTS = ("text", "image", "vector", "item")


COLLECTION_COLUMNS = "id name encoder_id encoder_hash dataset owner run_id images texts dim changes vectors created_at"
# ``vectors``: its index, null where files are searched; ``texts``: in the list those of the last index run
CollectionView = row_view(CollectionRow, COLLECTION_COLUMNS)


class CollectionDetail(RowView):
    labels: dict[str, list[str]] = Field(description="what a filter can ask for: 1,000 values of each label at most")
    label_counts: dict[str, int] = Field(description="number of all values of each label, of a set of its members")
    label_types: dict[str, LabelType] = Field(
        description="of each label, which say what forms its filter has: text, number, date or set"
    )
    text_vectors: bool = Field(
        description="whether its captions have vectors; false: its encoder reads images alone, and texts are searched "
        "by the words of captions (hybrid)"
    )


class QueryWeights(BaseModel):
    """How much each part counts; 1 where it is left out. Less than 0: away from it."""

    model_config = ConfigDict(extra="forbid")

    text: Weight | None = Field(None, description="of the text")
    image: Weight | None = Field(None, description="of the image")
    vector: Weight | None = Field(None, description="of the vector")
    item: Weight | None = Field(None, description="of the item")

    def as_dict(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class SearchQuery(BaseModel):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    model_config = ConfigDict(extra="forbid")

    text: Content | None = Field(None, description="a text to search by")
    image: Content | None = Field(None, description="an image as a data URL")
    vector: Annotated[list[float], Field(max_length=16_384, fail_fast=True)] | None = Field(
        None, description="a vector of the collection's encoder to search by"
    )
    item: Reference | None = Field(None, description="id of an image or text of the collection")
    weights: QueryWeights = QueryWeights()

    @model_validator(mode="after")
    def _some_part(self) -> Self:
        if all(getattr(self, name) is None for name in QUERY_PARTS):
            raise ValueError("give at least one of text, image, vector and item")
        return self

    @property
    def embedded(self) -> list[Target]:
        """Kinds of inputs that an encoder has to embed."""
        kinds: list[tuple[Target, str | None]] = [("images", self.image), ("texts", self.text)]
        return [kind for kind, value in kinds if value is not None]


class LabelCondition(BaseModel):
    """A range of a number or a date, members of a set, values to leave out; everything that is given applies."""

    model_config = ConfigDict(extra="forbid")

    gte: Number | Line | None = Field(None, description="at least; a date without a time is the whole day")
    gt: Number | Line | None = Field(None, description="more than, or later")
    lte: Number | Line | None = Field(None, description="at most")
    lt: Number | Line | None = Field(None, description="less than, or earlier")
    any: LabelTexts | None = Field(None, description="of a set: it has one of these")
    all: LabelTexts | None = Field(None, description="of a set: it has every one of these")
    none: LabelTexts | None = Field(None, description="it has none of these values, or the image lacks the label")


MAX_CONDITIONS = 32


def _few_conditions(value: Any) -> Any:
    """Raises: PydanticKnownError for too many. Pydantic would count only those without an error."""
    if isinstance(value, dict) and len(value) > MAX_CONDITIONS:
        context = {"field_type": "Dictionary", "max_length": MAX_CONDITIONS, "actual_length": len(value)}
        raise PydanticKnownError("too_long", context)
    return value


class SearchRequest(SearchQuery):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    model_config = ConfigDict(json_schema_extra=request_example(text="a red bird", k=5))

    target: Target = Field("images", description="what to search: images, or texts (captions)")
    k: int = Field(20, ge=1, le=1000, description="number of hits")
    offset: int = Field(0, ge=0, le=9000, description="hits to leave out: those of the pages before")
    hybrid: bool = Field(
        False,
        description="rank images by the words of their captions, too: the ranks by cosine and by BM25 are fused; needs "
        "text, and offset + k of at most 1000; where the encoder reads images alone, the mean of the ten images with "
        "the best captions stands for the text's vector",
    )
    where: Annotated[
        dict[LabelText, LabelText | LabelTexts | Number | LabelCondition],
        BeforeValidator(_few_conditions),
    ] = Field(
        {},
        max_length=MAX_CONDITIONS,
        description="{label: filter}, all of which apply: a value or values as they are written; a number; {gte, gt, "
        "lte, lt} of a label that is a number or a date; {any, all} of one that is a set; {none} of every label",
    )

    def filters(self) -> dict[str, Any]:
        """``where`` without models."""
        return {
            label: each.model_dump(exclude_none=True) if isinstance(each, LabelCondition) else each
            for label, each in self.where.items()
        }


class SearchResponse(BaseModel):
    hits: list[dict[str, Any]] = Field(
        description="best first: id, score (cosine), and the item or text; a text with the number of its images "
        "(item_count) and the ids and addresses of 100 at most (items, image_urls)"
    )
    took_ms: float = Field(description="milliseconds in the service")
    text_limit: int | None = Field(
        None, description="tokens that the encoder reads of a text, where this one fills them: the rest is not read"
    )


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


class ChangedLabelsView(BaseModel):
    changed: int = Field(description="images whose labels are others now")


class AddedItemsView(BaseModel):
    ids: list[str] = Field(description="in the order of the items")
    images: int = Field(description="how many images the collection holds then")


class DuplicateGroupView(BaseModel):
    size: int = Field(description="images that it holds")
    items: list[dict[str, Any]] = Field(
        description="the first 100 of them, each with its score: the cosine to the first"
    )


class DuplicatePage(BaseModel):
    groups: list[DuplicateGroupView] = Field(description="the largest first")
    total: int = Field(description="groups in all")
    offset: int = Field(description="groups that were skipped")
    threshold: float = Field(description="least cosine of near-duplicates")
    took_ms: float = Field(description="milliseconds in the service")
