"""The asynchronous client passes every test of the synchronous one, and does not block others while it waits."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from api.client import AsyncClient, Client
from tests.api.client import test_client as plain
from tests.api.client.sync_adapter import SyncAdapter
from tests.api.client.test_client import *  # noqa: F403 - collected here once more, with the other client
from tests.api.scripted_server import BUSY, FINE, scripted_server


@pytest.fixture(autouse=True)
def _the_other_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "Client", SyncAdapter)


def calls_of(client: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(function)
        for name, function in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_have_the_same_calls() -> None:
    ours, theirs = calls_of(Client), calls_of(AsyncClient)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 60
    for name, signature in ours.items():
        assert list(signature.parameters.values()) == list(theirs[name].parameters.values()), name
        expected = str(signature.return_annotation).replace("Generator[", "AsyncGenerator[")
        assert theirs[name].return_annotation == expected, name


def test_what_is_said_of_calls_is_said_of_both() -> None:
    for name in calls_of(Client):
        assert inspect.getdoc(getattr(AsyncClient, name)) == inspect.getdoc(getattr(Client, name))


def test_waiting_for_a_busy_service_holds_up_nobody() -> None:
    async def scenario() -> list[str]:
        order: list[str] = []

        async def other() -> None:
            await asyncio.sleep(0)
            order.append("other")

        async with AsyncClient(server.url, "k") as client:
            task = asyncio.create_task(other())
            await client.run("run_1")
            order.append("answer")
            await task
        return order

    with scripted_server(BUSY, FINE) as server:
        assert asyncio.run(scenario()) == ["other", "answer"]


def test_a_call_that_is_given_up_is_over() -> None:
    async def scenario() -> None:
        async with AsyncClient(server.url, "k", attempts=1000) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.run("run_1"), 0.2)
            assert len(asyncio.all_tasks()) == 1

    with scripted_server((503, {"retry-after": "60"}, b"{}")) as server:
        asyncio.run(scenario())
        assert len(server.requests) == 1


def test_the_page_of_a_collection_is_fetched_to_its_end(live_service: Any, collection: Any) -> None:
    """Loops of calls, against the real service."""

    async def scenario() -> Any:
        async with AsyncClient(live_service.url, live_service.keys["viewer"]) as client:
            return await asyncio.gather(client.vectors("squares"), client.collection("squares"), client.health())

    found = asyncio.run(scenario())
    assert found[0] == live_service.admin.vectors("squares")
    assert found[1] == live_service.admin.collection("squares")
