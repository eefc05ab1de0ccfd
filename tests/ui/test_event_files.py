"""Events of the page with references to files that are not the visitor's: none is opened, fetched, copied or given out.

Every event that the page has is walked, with a reference at each of its arguments; "opened" is what the interpreter
itself reports.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.ui.hostile_events import (
    KEY,
    META,
    OTHER_OWNERS_FILE,
    PRIVATE,
    AccessMonitor,
    HostilePage,
    arguments,
    file_inputs,
    file_value,
    files_below,
    png,
    references_to,
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening


def secrets_in(body: bytes) -> list[bytes]:
    """Which contents a response holds, as they are or as part of a data URL."""
    passwd = Path("/etc/passwd").read_bytes()[:24]
    return [
        secret
        for secret in (PRIVATE, KEY, OTHER_OWNERS_FILE, passwd)
        if secret in body or base64.b64encode(secret)[:-4] in body
    ]


@pytest.mark.parametrize("caller", ["a stranger", "a viewer", "another owner"])
def test_no_event_reads_a_private_file(
    walk: HostilePage, watch: AccessMonitor, listener: socket.socket, caller: str
) -> None:
    if caller == "a viewer" and not walk.is_team:
        pytest.skip("on one machine nobody has a role: another owner is just another session")
    asyncio.run(walked(walk, watch, listener, caller, targets=1, ways=1))


@pytest.mark.extended
@pytest.mark.parametrize("caller", ["a stranger", "a viewer", "another owner"])
def test_no_event_reads_what_its_session_did_not_upload(
    walk: HostilePage, watch: AccessMonitor, listener: socket.socket, caller: str
) -> None:
    if caller == "a viewer" and not walk.is_team:
        pytest.skip("on one machine nobody has a role: another owner is just another session")
    requests = asyncio.run(walked(walk, watch, listener, caller))
    print(f"{len(walk.events)} events, {requests} requests")  # noqa: T201
    assert requests > len(walk.events) * (25 if caller == "a stranger" else 150)


async def walked(walk: Any, watch: Any, listener: Any, caller: str, targets: int = 99, ways: int = 99) -> int:
    """Every event and argument with so many targets and ways of naming them. Returns: how many requests.

    An anonymous user is turned away before anything is parsed: one way of naming tells as much as all.
    """
    key = {"a stranger": None, "a viewer": "key-vic", "another owner": "key-bob"}[caller]
    closed_files = list((await walk.hostile()).items())[:targets]
    browser = await walk.browser(key)
    before, requests = files_below(walk.uploads), 0
    walk.service.given.clear()
    for target, path in closed_files:
        path = path.replace("{port}", str(listener.getsockname()[1]))
        closed = {os.path.realpath(path), path}
        for number, values in walk.events.items():
            for way, reference in list(references_to(path, path).items())[: ways if key else 1]:
                for data in arguments(values, reference):
                    with watch.watching():
                        status, body = await browser.run(number, data)
                    requests += 1
                    where = f"event {number}, {target}, {way}, {caller}"
                    assert watch.opened_of(closed) == [], where
                    assert watch.connected == [], where
                    assert status == (422 if key else 401), f"{where}: {body!r}"
                    assert secrets_in(body) == [], where
    assert files_below(walk.uploads) == before
    assert [given for given in walk.service.given if secrets_in(given)] == []
    with pytest.raises(BlockingIOError):
        listener.accept()
    return requests


def test_references_elsewhere_in_an_event_are_refused_too(walk: HostilePage, watch: AccessMonitor) -> None:
    async def scenario() -> None:
        browser = await walk.browser("key-vic")
        reference = references_to(str(walk.private))["alone"]
        for number, values in walk.events.items():
            with watch.watching():
                status, body = await browser.run(number, values, event_data={"value": [reference]})
            assert watch.opened_of({str(walk.private)}) == []
            assert (status, json.loads(body)["code"]) == (422, "file_unknown")

    asyncio.run(scenario())


def test_what_the_session_uploaded_itself_is_read(walk: HostilePage, watch: AccessMonitor) -> None:
    """Without this the test above could not fail."""

    async def scenario() -> int:
        browser, read = await walk.browser("key-vic"), 0
        path = await browser.upload("mine ü.png", png())
        address = f"http://127.0.0.1:7865/gradio_api/file={quote(path)}"
        mine = {"path": path, "url": address, "orig_name": "mine ü.png", "size": 1, "mime_type": "image/png", **META}
        for number, values in walk.events.items():
            for place in file_inputs(walk.page, number):
                kind = walk.page.fns[number].inputs[place].get_block_name()
                walk.service.given.clear()
                with watch.watching():
                    status, body = await browser.run(
                        number, [*values[:place], file_value(kind, mine), *values[place + 1 :]]
                    )
                assert status == 200, body
                read += bool(watch.opened_of({path})) and png() in walk.service.given
        return read

    assert asyncio.run(scenario()) >= 3


def test_a_deleted_file_is_missed(walk: HostilePage) -> None:
    async def scenario() -> set[str]:
        browser, seen = await walk.browser("key-vic"), set()
        path = await browser.upload("old.png", png())
        Path(path).unlink()
        for number, values in walk.events.items():
            for place in file_inputs(walk.page, number):
                kind = walk.page.fns[number].inputs[place].get_block_name()
                value = file_value(kind, references_to(path)["alone"])
                status, body = await browser.run(number, [*values[:place], value, *values[place + 1 :]])
                assert (status, json.loads(body).get("code")) == (422, "file_unknown"), body
                seen.add(kind)
        return seen

    assert asyncio.run(scenario()) == {"file", "multimodaltextbox"}


def test_a_file_is_served_to_its_session_alone(walk: HostilePage, watch: AccessMonitor) -> None:
    async def scenario() -> None:
        vic, bob, anonymous = [await walk.browser(key) for key in ("key-vic", "key-bob", None)]
        path = await vic.upload("x y.png", png())
        targets = {**await walk.hostile(), "vic's": path}
        for browser, refusal in ((bob, 404), (anonymous, 401)):
            for path_ in targets.values():
                with watch.watching():
                    status, body, _ = await browser.request("GET", f"/gradio_api/file={path_}")
                assert (status, secrets_in(body)) == (refusal, [])
                assert (await browser.request("HEAD", f"/gradio_api/file={path_}"))[0] == refusal
                assert watch.opened_of({os.path.realpath(path_)}) == []
        status, body, headers = await vic.request("GET", f"/gradio_api/file={path}")
        assert (status, body, headers["content-type"]) == (200, png(), "image/png")
        page = await vic.upload("x.html", b"<script>alert(1)</script>")
        _, _, headers = await vic.request("GET", f"/gradio_api/file={page}")
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment")
        assert headers["x-content-type-options"] == "nosniff"

    asyncio.run(scenario())


def test_a_link_that_takes_the_place_of_an_upload_is_not_followed(walk: HostilePage, watch: AccessMonitor) -> None:
    async def scenario() -> None:
        vic = await walk.browser("key-vic")
        path = Path(await vic.upload("x.png", png()))
        path.unlink()
        path.symlink_to(walk.private)
        number = next(number for number in walk.events if file_inputs(walk.page, number))
        values = [references_to(str(path))["alone"]] * len(walk.events[number])
        with watch.watching():
            status, _ = await vic.run(number, values)
            served, body, _ = await vic.request("GET", f"/gradio_api/file={path}")
        assert (status, served, secrets_in(body)) == (422, 404, [])
        assert watch.opened_of({str(walk.private)}) == []

    asyncio.run(scenario())


def test_gradios_own_check_holds_behind_ours(walk: HostilePage) -> None:
    """Should a reference ever get past: Gradio itself refuses what was not uploaded, as in a page it launched."""
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    token = LocalContext.blocks.set(walk.page)
    try:
        with pytest.raises(InvalidPathError):
            _check_allowed(str(walk.private), check_in_upload_folder=True)
    finally:
        LocalContext.blocks.reset(token)
