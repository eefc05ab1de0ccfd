"""The memory of a request's images, with stubs in place of the encoder and the service."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from anyio import CapacityLimiter

from api.core.errors import Problem
from api.core.limits import PixelBudget
from api.core.settings import ApiSettings
from api.services.media import Submitted, read_images
from api.services.request_images import RequestImages
from api.services.state import AppState
from lcl_core.serving.batched_engine import BatchedEngine
from tests.api.sample_assets import png

PREPARED = 12 * 2048**2  # bytes of f32 [3, 2048, 2048]


def stub_state(settings: ApiSettings) -> AppState:
    state = SimpleNamespace(
        settings=settings,
        inferring=CapacityLimiter(2),
        decoding=CapacityLimiter(2),
        pixel_budget=PixelBudget(settings.image_memory_bytes, 30),
    )
    return cast(AppState, state)


def tiny_images(count: int) -> Mapping[str, str]:
    url = "data:image/png;base64," + base64.b64encode(png("red")).decode()
    return {f"input.{index}": url for index in range(count)}


async def submit(state: AppState, count: int, futures: list[Future[Any]]) -> Submitted[int]:
    """``futures`` of a request with so many tiny images, for an encoder that reads 2048 x 2048 pixels."""
    encoder = cast(BatchedEngine, SimpleNamespace(preparing_bytes=0, prepared_bytes=PREPARED))

    def read(_: BatchedEngine, opened: None, images: RequestImages) -> Submitted[int]:
        return futures, sum(1 for field in images if images.read(field))

    return await read_images(state, "ada", tiny_images(count), lambda: (encoder, None), read)


def test_prepared_images_keep_their_memory_until_the_model_has_read_them(settings: ApiSettings) -> None:
    async def scene() -> None:
        state, future = stub_state(settings), Future[int]()
        assert await submit(state, 3, [future]) == ([future], 3)
        assert state.pixel_budget.in_use == 3 * PREPARED
        waiting = asyncio.create_task(submit(state, 8, [Future[int]()]))
        while not state.pixel_budget.waiting:
            await asyncio.sleep(0)
        future.set_result(1)
        await waiting
        assert state.pixel_budget.in_use == 8 * PREPARED

    asyncio.run(scene())


def test_more_prepared_images_than_the_memory_holds_are_refused(settings: ApiSettings) -> None:
    with pytest.raises(Problem) as refused:
        asyncio.run(submit(stub_state(settings), 256, []))
    assert (refused.value.status, refused.value.code, refused.value.field) == (422, "too_many_pixels", "input.9")
    assert "LCL_IMAGE_MEMORY_BYTES" in refused.value.message


@pytest.fixture
def settings(tmp_path: Any) -> ApiSettings:
    return ApiSettings(home=tmp_path, _env_file=None)  # type: ignore[call-arg]
