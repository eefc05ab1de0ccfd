"""Events that no page sends, values that no form offers, and how much of a page's state and work one key may have."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.ui.hostile_events import HostilePage
from ui import app as page_module
from ui import event_files as guard


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "event_unreadable"),
        (b"[]", 422, "event_unreadable"),
        (b'{"data": {}}', 422, "event_unreadable"),
        (b'{"data": [NaN], "fn_index": 0}', 422, "event_unreadable"),
        (b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b', "fn_index": EVENT}', 422, "event_unreadable"),
        (b'{"data": [], "fn_index": 99999}', 404, "unknown_event"),
        (b'{"data": [], "fn_index": [1]}', 422, "event_unreadable"),
        (b'{"data": [], "fn_index": EVENT, "session_hash": "../x"}', 422, "name_malformed"),
        (b'{"data": [], "fn_index": EVENT, "session_hash": 7}', 422, "name_malformed"),
        (b'{"data": ["' + b"x" * 5_000_000 + b'"]}', 413, "too_large"),
    ],
)
def test_an_event_that_no_page_sends_is_refused_in_words(
    walk: HostilePage, body: bytes, status: int, code: str
) -> None:
    async def scenario() -> None:
        vic = await walk.browser("key-vic")
        event = str(next(iter(walk.events))).encode()
        answered, words, _ = await vic.request("POST", "/gradio_api/run/predict", body.replace(b"EVENT", event))
        assert (answered, json.loads(words)["code"]) == (status, code)
        assert json.loads(words)["error"].endswith((".", "once."))

    asyncio.run(scenario())


def test_a_value_that_is_not_offered_is_reported_in_words(walk: HostilePage) -> None:
    async def scenario() -> None:
        vic = await walk.browser("key-vic")
        number = next(n for n, f in walk.page.fns.items() if getattr(f.fn, "__name__", "") == "search")
        values = list(walk.events[number])
        wanted = [getattr(part, "label", "") for part in walk.page.fns[number].inputs].index("Compare words with")
        values[wanted] = "smells"
        status, body = await vic.run(number, values)
        answer = json.loads(body)
        assert (status, answer["code"]) == (422, "value_not_offered")
        assert "choices" not in answer["error"]
        status, body = await vic.run(number, [])  # too few: Gradio says null
        assert (status, json.loads(body)["code"]) == (500, "event_failed")
        assert json.loads(body)["error"].startswith("The page could not do this")

    asyncio.run(scenario())


def test_the_state_of_a_page_belongs_to_its_session(walk: HostilePage) -> None:
    """Two sessions that say the same session_hash have different state."""

    async def scenario() -> None:
        vic, bob = await walk.browser("key-vic"), await walk.browser("key-bob")
        number = next(iter(walk.events))
        before = set(walk.page.state_holder.session_data)
        for browser in (vic, bob):
            await browser.run(number, walk.events[number], session_hash="same")
        made = set(walk.page.state_holder.session_data) - before
        assert len(made) == 2
        assert all(name.endswith("-same") for name in made)

    asyncio.run(scenario())


def test_the_state_of_so_many_pages_is_kept(walk: HostilePage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions a key has."""
    most = 8
    monkeypatch.setattr(guard, "MAX_OPEN_PAGES", most)

    async def scenario() -> None:
        one, other = await walk.browser("key-bob"), await walk.browser("key-bob")
        number = next(iter(walk.events))
        for page in range(most + 3):
            await (one, other)[page % 2].run(number, walk.events[number], session_hash=f"many{page}")
        made = {name.rpartition("-")[2] for name in walk.page.state_holder.session_data if "-many" in name}
        assert made == {f"many{page}" for page in range(3, most + 3)}
        assert walk.page.state_holder.capacity == page_module.MAX_PAGE_STATES

    asyncio.run(scenario())


def test_a_page_costs_no_stream_and_no_copy_of_its_configuration(walk: HostilePage) -> None:
    """A stream each would use up the connections of a gateway, a copy each half a megabyte and a tenth of a second."""
    bob, number = asyncio.run(walk.browser("key-bob")), next(iter(walk.events))
    asyncio.run(bob.run(number, walk.events[number], session_hash="cheap"))
    [state] = [state for name, state in walk.page.state_holder.session_data.items() if name.endswith("-cheap")]
    assert len(state.config_values) < 20 < len(walk.page.blocks)
    assert json.loads(asyncio.run(bob.request("GET", "/config"))[1])["connect_heartbeat"] is False


def test_the_state_of_a_session_goes_with_it(tmp_path: Path) -> None:
    """What Gradio keeps for a page that nobody can reach any more."""

    async def scenario() -> None:
        walk = HostilePage(tmp_path, team=True)
        vic, bob = await walk.browser("key-vic"), await walk.browser("key-bob")
        number = next(iter(walk.events))
        for browser in (vic, bob):
            await browser.run(number, walk.events[number], session_hash="s")
        assert len(walk.page.state_holder.session_data) == 2
        await vic.request("POST", "/logout")
        assert len(walk.page.state_holder.session_data) == 1

    asyncio.run(scenario())


def test_so_many_events_of_a_key_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions it has."""
    assert guard.MAX_CONCURRENT_EVENTS < 40, "the threads of events"
    monkeypatch.setattr(guard, "MAX_CONCURRENT_EVENTS", 3)

    async def scenario() -> list[int]:
        walk = HostilePage(tmp_path, team=True)
        browsers = [await walk.browser("key-vic") for _ in range(5)]
        number, values = next((n, v) for n, v in walk.events.items() if v)
        answers = await asyncio.gather(*(browser.run(number, values) for browser in browsers))
        assert (await browsers[-1].run(number, values))[0] == 200
        return [status for status, _ in answers]

    assert sorted(asyncio.run(scenario())) == [200, 200, 200, 429, 429]
