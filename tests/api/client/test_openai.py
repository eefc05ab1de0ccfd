"""OpenAI's own client against the service: texts, images, sizes and both encodings."""

import asyncio

import numpy as np
import pytest

from api.client import data_url
from tests.api.sample_assets import save_encoder

openai = pytest.importorskip("openai")


@pytest.fixture
def settings(live_service, encoder, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return {"base_url": f"{live_service.url}/v1", "api_key": live_service.keys["viewer"], "max_retries": 0}


def test_texts_and_images_are_embedded(settings, live_service, sample_images):
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
    assert packed.model == plain.model == "tiny", "the name that was asked for"


def test_encoders_are_its_models(settings, live_service):
    known = live_service.admin.encoder("tiny")
    with openai.OpenAI(**settings) as client:
        listed = {model.id: model for model in client.models.list()}
        for name in listed:
            assert client.embeddings.create(model=name, input="x").model == name
    found = listed["tiny"]
    assert (found.id, found.object, found.owned_by) == ("tiny", "model", known["owner"])
    assert found.created > 1.7e9
    with openai.OpenAI(**{**settings, "api_key": "wrong"}) as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


@pytest.mark.extended
def test_of_two_encoders_with_one_name_the_older_is_listed_by_its_id(settings, live_service, data_root):
    first, second = (
        live_service.admin.import_encoder("double", str(save_encoder(data_root / f"double-{seed}", seed=seed)))
        for seed in (11, 12)
    )
    with openai.OpenAI(**settings) as client:
        names = [model.id for model in client.models.list() if model.id in ("double", first["id"], second["id"])]
    assert names == ["double", first["id"]]


def test_one_text_from_an_event_loop(settings, live_service):
    async def scenario():
        async with openai.AsyncOpenAI(**settings) as client:
            return await client.embeddings.create(model="tiny", input="a red square")

    found = asyncio.run(scenario()).data[0].embedding
    np.testing.assert_allclose(found, live_service.admin.embed_texts("tiny", ["a red square"])[0], atol=1e-6)


def test_refusals_arrive_as_its_own_errors(settings, tmp_path):
    with openai.OpenAI(**settings) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="24 numbers"):
            client.embeddings.create(model="tiny", input="x", dimensions=8)
        with pytest.raises(openai.NotFoundError, match="absent"):
            client.embeddings.create(model="absent", input="x")
    with (
        openai.OpenAI(**{**settings, "api_key": "wrong"}) as client,
        pytest.raises(openai.AuthenticationError) as wrong,
    ):
        client.embeddings.create(model="tiny", input="x")
    assert wrong.value.type == "authentication_error"


def test_its_errors_name_the_parameter(settings):
    with openai.OpenAI(**settings) as client:
        with pytest.raises(openai.UnprocessableEntityError) as refusal:
            client.embeddings.create(model="tiny", input="x", dimensions=8)
        with pytest.raises(openai.NotFoundError) as absent:
            client.embeddings.create(model="absent", input="x")
    found = refusal.value
    assert (found.param, found.type, found.code) == ("dimensions", "invalid_request_error", "invalid_value")
    assert (absent.value.param, absent.value.code) == (None, "not_found")


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_tokens_are_refused_in_words(settings, tokens):
    with openai.OpenAI(**settings) as client, pytest.raises(openai.UnprocessableEntityError) as refusal:
        client.embeddings.create(model="tiny", input=tokens)
    assert refusal.value.param == "input"
    assert "lists of token numbers are not accepted" in refusal.value.message
    assert "constrained" not in refusal.value.message
