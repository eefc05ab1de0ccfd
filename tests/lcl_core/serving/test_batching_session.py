"""Many clients on one real encoder: the same vectors as alone, bad items alone, and no thread left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lcl_core.errors import UserError
from lcl_core.serving import BatchingSession, CaptionOptions, EncoderSession, Overloaded, Unloaded


@pytest.fixture(scope="module")
def alone(encoder: Path) -> EncoderSession:
    return EncoderSession(encoder, device="cpu")


@pytest.fixture
def shared(alone: EncoderSession) -> Iterator[BatchingSession]:
    session = BatchingSession(alone, max_batch=8)
    yield session
    session.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_batches_change_nothing(shared: BatchingSession, alone: EncoderSession, drawings: list[Image.Image]) -> None:
    expected, words = alone.embed_images(drawings), alone.embed_texts(["ant", "bus"])
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda image: shared.embed_images([image])[0], drawings))
    assert answers == pytest.approx(expected, abs=1e-5)
    assert shared.embed_texts(["ant", "bus"]) == pytest.approx(words, abs=1e-5)
    assert shared.embed_images([]).shape == (0, alone.dim)
    assert (shared.hash, shared.dim, shared.image_tokens) == (alone.hash, alone.dim, alone.image_tokens)
    assert shared.count_tokens(["ant"]) == alone.count_tokens(["ant"])


def test_awaiting_gives_the_same(shared: BatchingSession, alone: EncoderSession, drawings: list[Image.Image]) -> None:
    async def ask() -> tuple:
        return await asyncio.gather(
            shared.embed_images_async(drawings[:3]),
            shared.embed_texts_async(["ant"]),
            shared.caption_async(drawings[:2], max_new_tokens=5),
        )

    images, texts, captions = asyncio.run(ask())
    assert images == pytest.approx(alone.embed_images(drawings[:3]), abs=1e-5)
    assert texts == pytest.approx(alone.embed_texts(["ant"]), abs=1e-5)
    assert captions == alone.caption(drawings[:2], max_new_tokens=5)


def test_sampled_captions_do_not_depend_on_company(
    shared: BatchingSession, alone: EncoderSession, drawings: list[Image.Image]
) -> None:
    options = CaptionOptions(top_p=0.9, temperature=3.0, seed=7, max_new_tokens=8)
    expected = alone.caption(drawings[:1], top_p=0.9, temperature=3.0, seed=7, max_new_tokens=8)
    futures = [shared.submit_captions([drawings[0]], options)[0] for _ in range(4)]
    assert [future.result(30) for future in futures] == expected * 4


def test_a_picture_that_cannot_be_prepared_fails_alone(
    shared: BatchingSession, alone: EncoderSession, drawings: list[Image.Image]
) -> None:
    futures = shared.submit_images([drawings[0], None, drawings[1]])  # type: ignore[list-item]
    assert futures[1].exception(30) is not None
    good = [futures[0].result(30), futures[2].result(30)]
    assert good == pytest.approx(alone.embed_images(drawings[:2]), abs=1e-5)
    with pytest.raises(UserError, match="max_new_tokens"):
        shared.caption(drawings[:1], max_new_tokens=0)


def test_a_prompt_without_room_fails_alone(shared: BatchingSession, drawings: list[Image.Image]) -> None:
    with pytest.raises(UserError) as caught:
        shared.caption(drawings[:1], prompt="so many words " * 50)
    assert caught.value.code == "prompt_too_long"
    assert len(shared.caption(drawings[:1], max_new_tokens=3)) == 1


def test_too_much_at_once_is_refused_before_any_work(alone: EncoderSession, drawings: list[Image.Image]) -> None:
    session = BatchingSession(alone, max_queue=4, max_wait=30, max_batch=64)
    with pytest.raises(UserError) as caught:
        session.embed_images(drawings[:5])
    assert caught.value.code == "too_many_items"
    waiting = session.submit_texts(["a", "b", "c", "d"])
    with pytest.raises(Overloaded):
        session.embed_images(drawings[:1])
    session.close()
    assert all(future.result(0).shape == (alone.dim,) for future in waiting)
    with pytest.raises(Unloaded):
        session.embed_texts(["e"])


def test_health_goes_through_the_queue(shared: BatchingSession) -> None:
    assert shared.health()["device"] == "cpu"
    shared.close()
    with pytest.raises(Unloaded):
        shared.health()


def test_a_session_that_nobody_holds_finishes_and_leaves(alone: EncoderSession) -> None:
    before = set(threading.enumerate())
    session = BatchingSession(alone, max_wait=30)
    (thread,) = set(threading.enumerate()) - before
    (future,) = session.submit_texts(["ant"])
    del session
    gc.collect()
    assert future.result(30).shape == (alone.dim,)
    until(lambda: not thread.is_alive())
