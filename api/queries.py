"""What a search asks for: words, a picture, a vector and an item, each with its weight; as one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.errors import Problem
from api.media import Content, check_text
from api.settings import ApiSettings
from lcl_core.errors import UserError

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession
    from lcl_core.serving.collection import Collection

PARTS = ("text", "image", "vector", "item")
Weight = Annotated[float, Field(ge=-100, le=100)]


class Weights(BaseModel):
    """How much each part counts; 1 where nothing is said. Less than 0: away from it."""

    model_config = ConfigDict(extra="forbid")

    text: Weight | None = None
    image: Weight | None = None
    vector: Weight | None = None
    item: Weight | None = None

    def given(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class Question(BaseModel):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    model_config = ConfigDict(extra="forbid")

    text: Content | None = None
    image: Content | None = Field(None, description="a picture as a data URL")
    vector: list[float] | None = Field(None, max_length=16_384)
    item: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="id of a picture or text of the collection"
    )
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _some_part(self) -> Self:
        if all(getattr(self, name) is None for name in PARTS):
            raise ValueError("give at least one of text, image, vector and item")
        return self

    @property
    def encodes(self) -> bool:
        """Whether an encoder is needed to answer it."""
        return self.text is not None or self.image is not None


def check_weights(question: Question) -> None:
    """Raises: Problem 422 for a weight of what is not there."""
    for name in question.weights.given():
        if getattr(question, name) is None:
            message = f"weights.{name}: there is no {name} in the query that it could weigh"
            raise Problem(422, "bad_query", message, field=f"weights.{name}")


def embed_text(question: Question, encoder: BatchingSession | None, settings: ApiSettings) -> dict[str, Any]:
    """f32 [E] of the text, by its name, if there is one. Raises: Problem 422."""
    if question.text is None or encoder is None:
        return {}
    return {"text": encoder.embed_texts([check_text(question.text, settings, "text")])[0]}


def mixed(question: Question, embedded: dict[str, Any], collection: Collection) -> Any:
    """f32 [E] of length 1: all parts in one. Raises: UserError naming the part, or ``zero_query``."""
    from lcl_core.serving.mixture import mix  # numpy: not at start-up

    parts = dict(embedded)
    if question.vector is not None:
        parts["vector"] = question.vector
    if question.item is not None:
        try:
            parts["item"] = collection.vector(question.item)
        except UserError as error:
            raise UserError(error.message, code=error.code, field="item") from error
    return mix(parts, question.weights.given(), collection.dim)
