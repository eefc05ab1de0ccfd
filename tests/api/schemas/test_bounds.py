"""Number of errors that one request can have: each is copied into the answer's choice of the first."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from api.core.middleware import MEDIA_JSON
from api.schemas.collections import AddItemsRequest, ChangeLabelsRequest, SearchRequest
from api.schemas.inference import AttentionRequest, CaptionRequest, ContinuationRequest, EmbeddingRequest
from lcl_core.specs.validation_messages import describe_error, main_error

MANY = 20_000
MEMBERS = {str(number): 1 for number in range(MEDIA_JSON.members)}  # as many as the body may have in one object
REQUESTS: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (EmbeddingRequest, {"model": "a", "input": [None] * MANY}, "input.0"),
    (EmbeddingRequest, {"model": "a", "input": [{"type": "text"}] * MANY}, "input.0.type"),
    (CaptionRequest, {"model": "a", "images": [1] * MANY}, "images.0"),
    (AttentionRequest, {"model": "a", "images": [""] * MANY}, "images.0"),
    (ContinuationRequest, {"model": "a", "document": [MEMBERS] * MANY}, "document.0.image"),
    (SearchRequest, {"text": "a", "vector": ["a"] * MANY}, "vector.0"),
    (SearchRequest, {"text": "a", "where": {"kind": [1] * MANY}}, "where.kind.0"),
    (SearchRequest, {"text": "a", "where": {"kind": {"any": [1] * MANY}}}, "where.kind.any.0"),
    (SearchRequest, {"text": "a", "where": {str(number): [1] for number in range(MANY)}}, "where"),
    (SearchRequest, {"text": "a", "where": {str(number): MEMBERS for number in range(32)}}, "where.0.0"),
    (AddItemsRequest, {"items": [MEMBERS] * 1000}, "items.0.image"),
    (ChangeLabelsRequest, {"ids": ["a"], "add": {str(number): [1] * 32 for number in range(1000)}}, "add.0.0"),
]


@pytest.mark.parametrize(("model", "body", "field"), REQUESTS)
def test_what_is_wrong_everywhere_is_a_few_errors(model: type[BaseModel], body: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    assert caught.value.error_count() <= 33 * (MEDIA_JSON.members + 10)
    error, path = main_error(caught.value.errors(), model, body)
    assert ".".join(map(str, path)) == field
    assert describe_error(error, model)


def test_as_many_conditions_as_are_allowed_are_said() -> None:
    with pytest.raises(ValidationError) as caught:
        SearchRequest.model_validate({"text": "a", "where": {str(number): 1 for number in range(33)}})
    (error,) = caught.value.errors()
    assert describe_error(error, SearchRequest) == "must have at most 32 items"


@pytest.mark.parametrize("model", [EmbeddingRequest, CaptionRequest])
def test_the_number_of_right_inputs_is_checked_later(model: type[BaseModel]) -> None:
    model.model_validate({"model": "a", "input" if model is EmbeddingRequest else "images": ["a"] * MANY})
