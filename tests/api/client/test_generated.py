"""Generated modules of the client are those that their sources generate."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from api.client import Client, models
from scripts import generate_client_models
from scripts.generate_sync_client import outdated


def test_the_synchronous_client_is_up_to_date() -> None:
    assert not outdated(), "run python scripts/generate_sync_client.py"


def test_the_models_are_up_to_date() -> None:
    generated = generate_client_models.generate()
    assert generated == generate_client_models.TARGET.read_text(encoding="utf-8"), (
        "run python -m scripts.generate_client_models"
    )


@pytest.mark.parametrize(
    ("schema", "annotation"),
    [
        ({"type": "string"}, "str"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "int | None"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/RunView"}}, "list[RunJson]"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "dict[str, float]"),
        ({"type": "object", "additionalProperties": True}, "dict[str, Any]"),
        ({"enum": ["cpu", "gpu"], "type": "string"}, 'Literal["cpu", "gpu"]'),
        ({"const": "list", "type": "string"}, 'Literal["list"]'),
        ({}, "Any"),
    ],
)
def test_a_schema_becomes_an_annotation(schema: dict[str, Any], annotation: str) -> None:
    assert generate_client_models.annotation_of(schema) == annotation


def test_an_answer_has_the_keys_of_its_model(live_service: Any, encoder: Any) -> None:
    client: Client = live_service.admin
    run = client.submit("validate", {"dataset": "sample"})
    try:
        assert run.keys() == get_type_hints(models.RunJson).keys()
        assert client.runs().keys() == get_type_hints(models.PageJson).keys()
        assert client.encoder("tiny").keys() == get_type_hints(models.EncoderJson).keys()
        assert client.status().keys() == get_type_hints(models.StatusJson).keys()
    finally:
        client.cancel(run["id"])
        client.delete(run["id"])
