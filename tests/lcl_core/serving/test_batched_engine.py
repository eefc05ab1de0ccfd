"""Many clients on one real encoder: the same vectors as alone, bad items alone, and no thread left behind."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.captioning import GenerationConfig, StreamListener
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.model.generation import IncrementalDetokenizer
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.dynamic_batcher import EncoderUnloaded, Overloaded, wait_all


@pytest.fixture(scope="module")
def alone(encoder):
    return EncoderEngine(encoder, device="cpu")


@pytest.fixture
def shared(alone):
    session = BatchedEngine(alone, max_batch=8)
    yield session
    session.close()


def until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_batches_change_nothing(shared, alone, drawings):
    expected, words = alone.embed_images(drawings), alone.embed_texts(["ant", "bus"])
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda image: wait_all(shared.submit_images([image]))[0], drawings))
    assert answers == pytest.approx(expected, abs=1e-5)
    assert shared.embed_texts(["ant", "bus"]) == pytest.approx(words, abs=1e-5)
    assert shared.embed_texts([]).shape == (0, alone.dim)
    assert (shared.hash, shared.dim, shared.image_tokens) == (alone.hash, alone.dim, alone.encoder.tokens)
    assert shared.count_tokens(["ant"]) == alone.count_tokens(["ant"])


def test_sampled_captions_do_not_depend_on_company(shared, alone, drawings):
    options = GenerationConfig(top_p=0.9, temperature=3.0, seed=7, max_new_tokens=8)
    expected = alone.caption(drawings[:1], top_p=0.9, temperature=3.0, seed=7, max_new_tokens=8)
    futures = [shared.submit_captions([drawings[0]], options)[0] for _ in range(4)]
    assert [future.result(30) for future in futures] == expected * 4


def test_pieces_are_reported_while_a_caption_is_written(shared, alone, drawings):
    for decoding in ({}, {"top_p": 0.9, "temperature": 3.0, "seed": 7}, {"num_beams": 3}):
        reported: list[list[str]] = [[], [], []]
        readers = [StreamListener(pieces.append) for pieces in reported]
        options = GenerationConfig(max_new_tokens=12, **decoding)
        futures = shared.submit_captions(drawings[:3], options, readers)
        captions = [future.result(30) for future in futures]
        assert ["".join(pieces) for pieces in reported] == captions
        assert captions == alone.caption(drawings[:3], max_new_tokens=12, **decoding)
        assert max(map(len, reported)) > 1 or "num_beams" in decoding


def test_a_reader_that_leaves_ends_the_writing_and_embeddings_come_in_between(shared, alone, drawings, monkeypatch):
    monkeypatch.setattr(
        IncrementalDetokenizer, "ended", property(lambda _: False, lambda *_: None), raising=False
    )  # no end comes
    reported, on, heard = [], threading.Event(), threading.Event()

    def hear(piece):
        reported.append(piece)
        heard.set()
        assert on.wait(30)

    reader = StreamListener(hear)
    (future,) = shared.submit_captions(drawings[:1], GenerationConfig(max_new_tokens=256), [reader])
    assert heard.wait(30)
    vector = shared.submit_texts(["ant"])[0]
    reader.cancelled = True
    on.set()
    assert vector.result(30).shape == (alone.dim,)
    assert future.result(30).startswith(reported[0])
    assert len(reported) == 1, "it was not written to its end"
    assert shared.embed_texts(["bus"]).shape == (1, alone.dim)


def test_a_beam_search_comes_in_steps_and_ends_with_its_last_reader(alone, drawings):
    options, readers = GenerationConfig(num_beams=3, max_new_tokens=30), [StreamListener(), StreamListener()]
    steps = alone.lcl_encoder.generate_captions(alone.preprocess(drawings[:2]), options, [0, 1], readers)
    assert next(steps) == []
    readers[1].cancelled = True
    assert next(steps) == [(1, "")]
    readers[0].cancelled = True
    assert next(steps) == [(0, "")]
    assert list(steps) == []


def test_a_reader_that_breaks_breaks_nobody_elses_caption(shared, alone, drawings):
    def hear(piece):
        raise RuntimeError("the loop is closed")

    futures = shared.submit_captions(
        drawings[:2], GenerationConfig(max_new_tokens=6), [StreamListener(hear), StreamListener()]
    )
    assert futures[1].result(30) == alone.caption(drawings[:2], max_new_tokens=6)[1]


def test_a_document_goes_on(shared, alone, drawings):
    parts = ["an ant", drawings[0], "and", drawings[1]]
    reported: list[str] = []
    future = shared.submit_continuation(parts, GenerationConfig(max_new_tokens=6), StreamListener(reported.append))
    expected = alone.continue_document(parts, max_new_tokens=6)
    assert future.result(30) == expected == "".join(reported)
    assert alone.continue_document(["an ant"], max_new_tokens=6, num_beams=2) is not None
    with pytest.raises(UserError) as caught:
        shared.submit_continuation(["an ant", None], GenerationConfig())  # type: ignore[list-item]
    assert (caught.value.code, caught.value.field) == ("image_unreadable", "document.1")
    with pytest.raises(UserError) as caught:
        shared.submit_continuation(drawings * 2, GenerationConfig())
    assert caught.value.code == "too_large"


def test_an_image_that_cannot_be_prepared_fails_alone(shared, alone, drawings):
    futures = shared.submit_images([drawings[0], None, drawings[1]])  # type: ignore[list-item]
    assert futures[1].exception(30) is not None
    good = [futures[0].result(30), futures[2].result(30)]
    assert good == pytest.approx(alone.embed_images(drawings[:2]), abs=1e-5)
    with pytest.raises(UserError, match="max_new_tokens"):
        shared.submit_captions(drawings[:1], GenerationConfig(max_new_tokens=0))


def test_a_prompt_without_room_fails_alone(shared, drawings):
    with pytest.raises(UserError) as caught:
        shared.submit_captions(drawings[:1], GenerationConfig(prompt="so many words " * 50))
    assert caught.value.code == "too_large"
    assert len(wait_all(shared.submit_captions(drawings[:1], GenerationConfig(max_new_tokens=3)))) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (GenerationConfig(num_beams=16), "num_beams"),
        (GenerationConfig(prompt="an ant"), "prompt"),
        (GenerationConfig(context="an ant"), "context"),
    ],
)
def test_a_text_that_takes_too_much_memory_is_refused(alone, drawings, options, field):
    needed = alone.lcl_encoder.generation_bytes(options)
    session = BatchedEngine(alone, generation_bytes=needed - 1)
    with pytest.raises(UserError, match=f"{needed:,} bytes") as caught:
        session.submit_captions(drawings[:1], options)
    assert (caught.value.code, caught.value.field) == ("too_large", field)
    session.close()


def test_a_document_that_takes_too_much_memory_is_refused(alone):
    session = BatchedEngine(alone, generation_bytes=1)
    with pytest.raises(UserError) as caught:
        session.submit_continuation(["an ant"], GenerationConfig())
    assert (caught.value.code, caught.value.field) == ("too_large", "document")
    session.close()


def test_too_much_at_once_is_refused_before_any_work(alone, drawings, monkeypatch):
    entered, release, embed = threading.Event(), threading.Event(), alone.embed_texts

    def held(texts):
        entered.set()
        assert release.wait(30)
        return embed(texts)

    monkeypatch.setattr(alone, "embed_texts", held)
    session = BatchedEngine(alone, max_queue=4, max_batch=4)
    session.submit_texts(["held"])
    assert entered.wait(30)
    with pytest.raises(UserError) as caught:
        session.submit_images(drawings[:5])
    assert caught.value.code == "too_many_items"
    waiting = session.submit_texts(["a", "b", "c", "d"])
    with pytest.raises(Overloaded):
        session.submit_images(drawings[:1])
    release.set()
    session.close()
    assert all(future.result(0).shape == (alone.dim,) for future in waiting)
    with pytest.raises(EncoderUnloaded):
        session.embed_texts(["e"])


def test_a_session_that_nobody_holds_finishes_and_leaves(alone):
    before = set(threading.enumerate())
    session = BatchedEngine(alone)
    (thread,) = set(threading.enumerate()) - before
    (future,) = session.submit_texts(["ant"])
    del session
    gc.collect()
    assert future.result(30).shape == (alone.dim,)
    until(lambda: not thread.is_alive())
