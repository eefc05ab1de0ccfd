"""Captions and continuations as they are written, and where an encoder looks."""

import asyncio
import io
import json
import threading
from concurrent.futures import Future

import pytest
from PIL import Image

from api.client import ApiError, TextDelta, data_url
from api.routes import inference
from api.routes.inference import TextConsumers
from lcl_core.common.errors import UserError
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.model.generation import IncrementalDetokenizer

SECONDS = 60  # a deadline, not a duration
WAYS = {"greedy": {}, "nucleus": {"top_p": 0.9, "temperature": 2.0, "seed": 5}, "beams": {"num_beams": 3}}


@pytest.fixture(scope="module")
def session(encoder_dir):
    return EncoderEngine(encoder_dir, "cpu")


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("way", WAYS)
def test_pieces_add_up_to_the_captions_that_are_sent_whole(live_service, encoder, sample_images, way):
    images = [sample_images["red"], sample_images["blue"]]
    decoding = {"max_new_tokens": 12, "prompt": "a", "context": "square", **WAYS[way]}
    whole = live_service.admin.caption("tiny", images, **decoding)
    pieces = list(live_service.admin.stream_captions("tiny", images, **decoding))
    for index, caption in enumerate(whole):
        own = [piece for piece in pieces if piece.index == index]
        assert own[-1] == TextDelta(index, caption, whole=True)
        assert "".join(piece.text for piece in own[:-1]) == caption
        assert not any(piece.whole for piece in own[:-1])
        assert len(own) <= 2 or way != "beams"
    assert whole != live_service.admin.caption("tiny", images, **{**decoding, "context": ""}) or way == "beams"


def test_what_is_wrong_before_the_first_piece_has_a_status(live_service, http, encoder, refused, sample_images):
    body = {"model": "tiny", "images": [data_url(b"hello")], "stream": True}
    refused(http.post("/v1/captions", json=body), 422, "image_unreadable", "images.0")
    with pytest.raises(ApiError) as caught:
        next(live_service.admin.stream_captions("absent", [sample_images["red"]]))
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_what_goes_wrong_on_the_way_is_an_event(live_service, encoder, sample_images):
    with pytest.raises(ApiError) as caught:
        list(live_service.admin.stream_captions("tiny", [sample_images["red"]], prompt="red square " * 30))
    assert (caught.value.code, caught.value.field) == ("too_large", "prompt")


def test_a_client_that_goes_away_ends_the_writing(live_service, encoder, sample_images, monkeypatch):
    steps, has_left = [], threading.Event()
    leave, add = TextConsumers._cancel, IncrementalDetokenizer.add

    def record_cancel(self, texts):
        leave(self, texts)
        has_left.set()

    def add_one(self, token):
        steps.append(token)
        assert len(steps) < 2 or has_left.wait(SECONDS)
        return add(self, token) or "so"

    monkeypatch.setattr(TextConsumers, "_cancel", record_cancel)
    monkeypatch.setattr(IncrementalDetokenizer, "add", add_one)
    pieces = live_service.admin.stream_captions("tiny", [sample_images["red"]], max_new_tokens=30)
    assert not next(pieces).whole
    pieces.close()
    assert has_left.wait(SECONDS)
    assert len(live_service.admin.embed_texts("tiny", ["the encoder is free again"])) == 1
    assert len(steps) <= 2, "the step under way was the last one"


def test_time_that_is_up_ends_the_writing(monkeypatch):
    monkeypatch.setattr(inference, "WRITING_SECONDS", 0.02)

    async def ask(pieces):
        consumers, text = TextConsumers(1, stream=pieces), Future[str]()
        text.set_running_or_notify_cancel()
        if pieces:
            heard = [event async for event in consumers.events([text], lambda index, words: {})]
        else:
            with pytest.raises(UserError, match="not written within") as caught:
                await consumers.wait_all([text])
            heard = [caught.value.code]
        return heard, consumers.listeners[0].cancelled

    (event,), has_left = asyncio.run(ask(pieces=True))
    assert (event["event"], has_left) == ("error", True)
    assert json.loads(event["data"])["error"]["code"] == "deadline_exceeded"
    assert asyncio.run(ask(pieces=False)) == (["deadline_exceeded"], True)


def test_one_text_that_fails_leaves_the_others(caplog):
    async def ask():
        consumers, texts = TextConsumers(3, stream=True, field="images"), [Future[str]() for _ in range(3)]
        texts[0].set_exception(UserError("no image", code="image_unreadable"))
        consumers.listeners[1].notify("a fox")
        texts[1].set_result("a fox")
        texts[2].set_exception(ValueError("secret"))
        return [event async for event in consumers.events(texts, lambda index, words: {"index": index, "x": words})]

    events = [(event["event"], json.loads(event["data"])) for event in asyncio.run(ask())]
    assert ("piece", {"index": 1, "piece": "a fox"}) in events
    assert ("done", {"index": 1, "x": "a fox"}) in events
    (refused,) = [data["error"] for name, data in events if name == "error" and data["index"] == 0]
    assert refused == {
        "code": "image_unreadable", "message": "no image", "field": "images.0",
        "type": "invalid_request_error", "param": "images.0",
    }  # fmt: skip
    (broken,) = [data for name, data in events if name == "error" and data["index"] == 2]
    assert broken["error"]["code"] == "internal_error"
    assert "secret" not in broken["error"]["message"]


@pytest.mark.parametrize("way", WAYS)
def test_a_document_goes_on(live_service, encoder, session, sample_images, way):
    document = ["a red square", sample_images["red"], "<end_of_text> and", sample_images["blue"]]
    decoding = {"max_new_tokens": 9, **WAYS[way]}
    text = live_service.admin.continue_document("tiny", document, **decoding)
    parts = [opened(part) if isinstance(part, bytes) else part for part in document]
    assert text == session.continue_document(parts, **decoding)


def bad_documents(red):
    """{what: (document, error code, field)}."""
    return {
        "nothing": ([], "too_many_items", "document"),
        "too many parts": (["a"] * 9, "too_many_items", "document"),
        "too long a text": (["a", "x" * 501], "invalid_value", "document.1"),
        "a broken image": (["a", {"image": red}, {"image": data_url(b"x")}], "image_unreadable", "document.2.image"),
        "an address": ([{"image": "http://127.0.0.1:1/x.png"}], "invalid_value", "document.0.image"),
        "an image as a text": (["a", red], "invalid_value", "document.1"),
        "more than the encoder reads": ([{"image": red}] * 8, "too_large", "document"),
        "a number": ([7], "invalid_value", None),
        "an unknown part": ([{"text": "a"}], "invalid_value", None),
    }


@pytest.mark.parametrize("what", bad_documents(""))
def test_a_bad_document_names_its_part(http, encoder, refused, sample_images, what):
    document, code, field = bad_documents(data_url(sample_images["red"]))[what]
    facts = refused(http.post("/v1/continuations", json={"model": "tiny", "document": document}), 422, code, field)
    assert facts["field"].startswith("document")


def test_the_command_line_writes_too(lcl, live_service, encoder, sample_images, tmp_path):
    red = tmp_path / "red.png"
    red.write_bytes(sample_images["red"])
    given = ("--max-new-tokens", "6", "--context", "a blue circle")
    (caption,) = live_service.admin.caption("tiny", [sample_images["red"]], max_new_tokens=6, context="a blue circle")
    assert lcl("caption", "tiny", str(red), *given)[1] == f"{red}\t{caption}\n"
    found = json.loads(lcl("--json", "caption", "tiny", str(red), *given)[1])
    assert found == {"items": [{"file": str(red), "caption": caption}]}
    text = live_service.admin.continue_document("tiny", ["a red", sample_images["red"]], max_new_tokens=5)
    requested = ("continue", "tiny", "a red", f"@{red}", "--max-new-tokens", "5")
    assert lcl(*requested)[1] == f"{text}\n"
    assert json.loads(lcl("--json", *requested)[1]) == {"text": text}
    status, _, err = lcl("continue", "tiny", "@/absent.png")
    assert (status, "/absent.png: No such file" in err) == (1, True)
    assert lcl("continue", "tiny", "")[0] == 1
