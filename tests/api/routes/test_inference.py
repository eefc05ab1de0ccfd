"""Embeddings and captions from a real encoder, and what is refused before it computes anything."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from api.client import ApiError, data_url
from lcl_core.encoders.engine import EncoderEngine


@pytest.fixture(scope="module")
def session(encoder_dir):
    return EncoderEngine(encoder_dir, "cpu")


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def ask(http, given, **more):
    # in ASCII, since httpx itself cannot write the broken Unicode that some cases send
    body = json.dumps({"model": "tiny", "input": given, **more})
    return http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})


def test_texts_and_images_keep_their_order(http, encoder, session, sample_images):
    red = {"type": "image_url", "image_url": {"url": data_url(sample_images["red"])}}
    given = ["a red square", red, {"type": "text", "text": "a blue circle"}, data_url(sample_images["blue"])]
    answer = ask(http, given).json()
    assert answer["object"] == "list"
    assert answer["model"] == "tiny"
    assert [row["index"] for row in answer["data"]] == [0, 1, 2, 3]
    assert {row["object"] for row in answer["data"]} == {"embedding"}
    vectors = np.array([row["embedding"] for row in answer["data"]], np.float32)
    texts = session.embed_texts(["a red square", "a blue circle"])
    images = session.embed_images([opened(sample_images["red"]), opened(sample_images["blue"])])
    np.testing.assert_allclose(vectors, [texts[0], images[0], texts[1], images[1]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_base64_holds_the_same_numbers(http, encoder):
    plain = ask(http, "a red square").json()["data"][0]["embedding"]
    packed = ask(http, "a red square", encoding_format="base64").json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), np.array(plain, np.float32))


def test_usage_counts_what_the_model_read(http, encoder, session, sample_images):
    ids = session.encoder.processor.encode_texts(["a red square"])
    usage = {"prompt_tokens": ids.shape[1], "total_tokens": ids.shape[1], "truncated_inputs": 0}
    assert ask(http, "a red square").json()["usage"] == usage
    patches = (32 // 16) ** 2
    assert ask(http, [data_url(sample_images["red"])] * 2).json()["usage"]["total_tokens"] == 2 * patches


def test_a_text_longer_than_the_context_is_said_to_be_cut_or_refused(http, encoder, session):
    long = "a word " * 60
    answer = ask(http, ["a red square", long])
    assert answer.json()["usage"]["truncated_inputs"] == 1
    assert answer.headers["lcl-truncated-inputs"] == "1"
    refused = ask(http, ["a red square", long], truncate=False)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "input.1")
    assert f"reads {session.text_limit} tokens" in refused.json()["error"]["message"]
    assert "lcl-truncated-inputs" not in ask(http, "a red square", truncate=False).headers


@pytest.mark.parametrize("image", ["https://example.org/fish.png", base64.b64encode(bytes(300)).decode()])
def test_an_address_or_base64_alone_is_no_text(http, encoder, image):
    refused = ask(http, ["a fish", image])
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "input.1")
    assert '"type": "image_url"' in refused.json()["error"]["message"]
    assert ask(http, {"type": "text", "text": image}).status_code == 200


def test_the_client_embeds_and_captions(live_service, encoder, session, sample_images):
    images = [sample_images["red"], sample_images["green"]]
    expected = session.embed_images([opened(data) for data in images])
    np.testing.assert_allclose(live_service.admin.embed_images("tiny", images), expected, atol=1e-5)
    np.testing.assert_allclose(
        live_service.admin.embed_texts("tiny", ["hello"]), session.embed_texts(["hello"]), atol=1e-5
    )
    captions = live_service.admin.caption("tiny", images, max_new_tokens=5)
    assert captions == session.caption([opened(data) for data in images], max_new_tokens=5)


def bad_images():
    """{what: (data URL, error code)}."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    flat = io.BytesIO()
    Image.new("1", (600, 600)).save(flat, "PNG")
    svg = base64.b64encode(b"<svg/>").decode()
    return {
        "too many bytes": (data_url(buffer.getvalue()), "too_large"),
        "too many pixels": (data_url(flat.getvalue()), "too_large"),
        "no image": (data_url(b"hello"), "image_unreadable"),
        "cut short": (data_url(buffer.getvalue()[:5000]), "image_unreadable"),
        "empty": ("data:image/png;base64,", "image_unreadable"),
        "svg": (f"data:image/svg+xml;base64,{svg}", "image_unreadable"),
        "not base64": ("data:image/png;base64,@@@", "invalid_value"),
        "not declared base64": ("data:image/png,abc", "invalid_value"),
    }


@pytest.mark.parametrize("what", bad_images())
def test_a_bad_image_is_named_by_its_place(http, encoder, refused, sample_images, what):
    url, code = bad_images()[what]
    good = data_url(sample_images["red"])
    facts = refused(ask(http, ["text", good, url]), 422, code, "input.2")
    assert facts["message"].startswith("input.2: ")
    answer = http.post("/v1/captions", json={"model": "tiny", "images": [good, url]})
    refused(answer, 422, code, "images.1")


@pytest.mark.parametrize(
    "given", [[], "", [""], [[1, 2, 3]], 7, None, {"type": "audio"}, ["x"] * 9, "x" * 501, "\ud800", ["ok", "\udc00"]]
)
def test_a_bad_input_is_refused(http, encoder, refused, given):
    facts = refused(ask(http, given), 422)
    assert facts["field"].startswith("input")


@pytest.mark.parametrize(
    ("more", "field"),
    [({"encoding_format": "hex"}, "encoding_format"), ({"dimensions": 0}, "dimensions"), ({"colour": "red"}, "colour")],
)
def test_an_option_that_is_unknown_or_wrong_is_refused(http, encoder, refused, more, field):
    refused(ask(http, "x", **more), 422, "invalid_value", field)


def test_vectors_are_not_cut(http, encoder, refused):
    assert len(ask(http, "x", dimensions=24).json()["data"][0]["embedding"]) == 24
    assert "24 numbers" in refused(ask(http, "x", dimensions=8), 422, "invalid_value", "dimensions")["message"]


@pytest.mark.parametrize(
    ("decoding", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 10_000}, "max_new_tokens"),
        ({"num_beams": 99}, "num_beams"),
        ({"top_p": 0}, "top_p"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e-30, "top_p": 0.5}, "temperature"),
        ({"num_beams": 2, "top_p": 0.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"prompt": "x" * 501}, "prompt"),
        ({"magic": 1}, "magic"),
    ],
)
def test_bad_decoding_is_refused(live_service, encoder, sample_images, decoding, field):
    with pytest.raises(ApiError) as caught:
        live_service.admin.caption("tiny", [sample_images["red"]], **decoding)
    assert (caught.value.status, caught.value.field) == (422, field)


def test_sampling_is_seeded(live_service, encoder, sample_images):
    def sampled(seed):
        return live_service.admin.caption("tiny", [sample_images["red"]], top_p=0.9, temperature=2.0, seed=seed)

    assert sampled(1) == sampled(1)
    assert len({sampled(seed)[0] for seed in range(4)}) > 1
