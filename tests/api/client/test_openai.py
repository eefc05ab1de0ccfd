"""OpenAI's own client against the service: texts, images, sizes and both encodings."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.client import data_url

openai = pytest.importorskip("openai")


@pytest.fixture
def settings(live_service: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return {"base_url": f"{live_service.url}/v1", "api_key": live_service.keys["viewer"], "max_retries": 0}


def test_texts_and_images_are_embedded(settings: Any, live_service: Any, sample_images: dict[str, bytes]) -> None:
    given = ["a red square", data_url(sample_images["red"])]
    expected = [
        *live_service.admin.embed_texts("tiny", given[:1]),
        *live_service.admin.embed_images("tiny", [sample_images["red"]]),
    ]
    with openai.OpenAI(**settings) as client:
        packed = client.embeddings.create(model="tiny", input=given)  # asks for base64 by itself
        plain = client.embeddings.create(
            model="tiny", input=given, encoding_format="float", dimensions=24, user="somebody"
        )
    for answer in (packed, plain):
        np.testing.assert_allclose([each.embedding for each in answer.data], expected, atol=1e-6)
        assert [each.index for each in answer.data] == [0, 1]
        assert answer.usage.total_tokens > 0
    assert packed.model == live_service.admin.encoder("tiny")["id"]


def test_one_text_from_an_event_loop(settings: Any, live_service: Any) -> None:
    async def scenario() -> Any:
        async with openai.AsyncOpenAI(**settings) as client:
            return await client.embeddings.create(model="tiny", input="a red square")

    found = asyncio.run(scenario()).data[0].embedding
    np.testing.assert_allclose(found, live_service.admin.embed_texts("tiny", ["a red square"])[0], atol=1e-6)


def test_refusals_arrive_as_its_own_errors(settings: Any, tmp_path: Path) -> None:
    with openai.OpenAI(**settings) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="24 numbers"):
            client.embeddings.create(model="tiny", input="x", dimensions=8)
        with pytest.raises(openai.NotFoundError, match="absent"):
            client.embeddings.create(model="absent", input="x")
    with openai.OpenAI(**{**settings, "api_key": "wrong"}) as client, pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model="tiny", input="x")
