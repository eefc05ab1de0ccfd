"""Events of the page with references to files that are not the visitor's: none is opened, fetched, copied or given out.

Every event that the page has is walked, with a reference at each of its arguments; "opened" is what the interpreter
itself reports.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from tests.ui.walking import (
    META,
    Browser,
    EveryService,
    Watch,
    arguments,
    events_of,
    file_inputs,
    files_below,
    references_to,
)
from ui import app as page_module
from ui.settings import UiSettings
from ui.visitors import OwnKey, Visitors

PRIVATE, KEY, THEIRS = b"private-5c1d7e", b"lcl_key.9f2b44", b"of-another-owner-77aa10"
TOKEN = "walking-over-the-page-1"
OWNERS = {"key-vic": ("vic", "viewer"), "key-bob": ("bob", "submitter"), "key-eve": ("eve", "submitter")}


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()  # for good: the interpreter forgets no hook


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "crimson").save(out, "PNG")
    return out.getvalue()


class Walk:
    """A page of one kind with its service, its hostile files, and the sessions that name them."""

    def __init__(self, folder: Path, team: bool) -> None:
        self.uploads = folder / "uploads"
        self.is_team = team
        self.visitors = Visitors(3600)
        self.service = EveryService(self._owner)
        self.service.ANSWERS = {**EveryService.ANSWERS, "item_image": png()}
        built: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            build = page_module.build_page
            patch.setattr(page_module, "build_page", lambda *args: built.append(build(*args)) or built[-1])
            settings = UiSettings(team=team, token=TOKEN, _env_file=None)  # type: ignore[call-arg]
            self.app = page_module.build_app(self.service, settings, self.visitors if team else None)  # type: ignore[arg-type]
        [self.page] = built
        self.events = events_of(self.page)
        self.private = folder / "closed" / "private.png"
        self.private.parent.mkdir(mode=0o700)
        self.private.write_bytes(PRIVATE)
        self.key = folder / "home" / "key"
        self.key.parent.mkdir(mode=0o700)
        self.key.write_bytes(KEY)

    def _owner(self) -> Any:
        import httpx

        request = httpx.Request("GET", "http://service")
        next(OwnKey(self.visitors).auth_flow(request))
        owner, role = OWNERS[request.headers["authorization"].removeprefix("Bearer ")]
        return {"owner": owner, "role": role}

    async def browser(self, key: str | None) -> Browser:
        """With a session of that key (on one machine: a session of its own), or without one."""
        browser = Browser(self.app)
        if key and self.visitors and not await self._opened(browser):
            await browser.sign_in(key)
        return browser

    async def _opened(self, browser: Browser) -> bool:
        status, _, headers = await browser.ask("GET", f"/?token={TOKEN}")
        return status == 303 and headers["location"] == "./"

    async def hostile(self) -> dict[str, str]:
        """Name of a target -> what an event says in place of a path."""
        theirs = await (await self.browser("key-eve")).upload("theirs.png", THEIRS)
        link = self.uploads / "link.png"
        link.unlink(missing_ok=True)
        link.symlink_to(self.private)
        beside = Path(theirs).parent / "link.png"
        beside.unlink(missing_ok=True)
        beside.symlink_to(self.key)
        return {
            "a private file": str(self.private),
            "passwd": "/etc/passwd",
            "the key of the service": str(self.key),
            "the upload of another session": theirs,
            "a link among the uploads": str(link),
            "a link beside an upload": str(beside),
            "a path through the uploads": f"{self.uploads}/../closed/private.png",
            "a file address": f"file://{self.private}",
            "an http address": "http://127.0.0.1:{port}/x.png",
            "a host to resolve": "https://lcl-test.invalid/x.png",
            "a folder": str(self.private.parent),
            "the environment": "/proc/self/environ",
            "a device without end": "/dev/zero",
        }


@pytest.fixture(scope="module", params=["team", "one machine"])
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        yield Walk(folder, team=request.param == "team")


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
        for secret in (PRIVATE, KEY, THEIRS, passwd)
        if secret in body or base64.b64encode(secret)[:-4] in body
    ]


@pytest.mark.parametrize("caller", ["a stranger", "a viewer", "another owner"])
def test_no_event_reads_what_its_session_did_not_upload(
    walk: Walk, watch: Watch, listener: socket.socket, caller: str
) -> None:
    if caller == "a viewer" and not walk.is_team:
        pytest.skip("on one machine nobody has a role: another owner is just another session")
    asked = asyncio.run(walked(walk, watch, listener, caller))
    print(f"{len(walk.events)} events, {asked} requests")  # noqa: T201
    assert asked > (9_000 if caller == "a stranger" else 60_000)


async def walked(walk: Walk, watch: Watch, listener: socket.socket, caller: str) -> int:
    """Every event, argument, way of naming and target with each other. Returns: how many requests.

    A stranger is turned away before anything is parsed: one way of naming tells as much as all.
    """
    key = {"a stranger": None, "a viewer": "key-vic", "another owner": "key-bob"}[caller]
    targets = await walk.hostile()
    browser = await walk.browser(key)
    before, asked = files_below(walk.uploads), 0
    walk.service.given.clear()
    for target, path in targets.items():
        path = path.replace("{port}", str(listener.getsockname()[1]))
        closed = {os.path.realpath(path), path}
        for number, values in walk.events.items():
            for way, reference in list(references_to(path, path).items())[: None if key else 1]:
                for data in arguments(values, reference):
                    with watch.watching():
                        status, body = await browser.run(number, data)
                    asked += 1
                    where = f"event {number}, {target}, {way}, {caller}"
                    assert watch.opened_of(closed) == [], where
                    assert watch.connected == [], where
                    assert status == (422 if key else 401), f"{where}: {body!r}"
                    assert secrets_in(body) == [], where
    assert files_below(walk.uploads) == before
    assert [given for given in walk.service.given if secrets_in(given)] == []
    with pytest.raises(BlockingIOError):
        listener.accept()
    return asked


def test_references_elsewhere_in_an_event_are_refused_too(walk: Walk, watch: Watch) -> None:
    async def ask() -> None:
        browser = await walk.browser("key-vic")
        reference = references_to(str(walk.private))["alone"]
        for number, values in walk.events.items():
            with watch.watching():
                status, body = await browser.run(number, values, event_data={"value": [reference]})
            assert watch.opened_of({str(walk.private)}) == []
            assert (status, json.loads(body)["code"]) == (422, "file_unknown")

    asyncio.run(ask())


def test_what_the_session_uploaded_itself_is_read(walk: Walk, watch: Watch) -> None:
    """Without this the test above could not fail."""

    async def ask() -> int:
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
                        number, [*values[:place], [mine] if kind == "file" else mine, *values[place + 1 :]]
                    )
                assert status == 200, body
                read += bool(watch.opened_of({path})) and png() in walk.service.given
        return read

    assert asyncio.run(ask()) >= 5


def test_a_file_is_served_to_its_session_alone(walk: Walk, watch: Watch) -> None:
    async def ask() -> None:
        vic, bob, stranger = [await walk.browser(key) for key in ("key-vic", "key-bob", None)]
        path = await vic.upload("x y.png", png())
        targets = {**await walk.hostile(), "vic's": path}
        for browser, refusal in ((bob, 404), (stranger, 401)):
            for path_ in targets.values():
                with watch.watching():
                    status, body, _ = await browser.ask("GET", f"/gradio_api/file={path_}")
                assert (status, secrets_in(body)) == (refusal, [])
                assert (await browser.ask("HEAD", f"/gradio_api/file={path_}"))[0] == refusal
                assert watch.opened_of({os.path.realpath(path_)}) == []
        status, body, headers = await vic.ask("GET", f"/gradio_api/file={path}")
        assert (status, body, headers["content-type"]) == (200, png(), "image/png")
        page = await vic.upload("x.html", b"<script>alert(1)</script>")
        _, _, headers = await vic.ask("GET", f"/gradio_api/file={page}")
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment")
        assert headers["x-content-type-options"] == "nosniff"

    asyncio.run(ask())


def test_what_an_event_makes_is_served_to_its_session_alone(walk: Walk) -> None:
    """A picture of a collection that is taken over into the form, which Gradio keeps as a file."""

    async def ask() -> None:
        vic, bob = await walk.browser("key-vic"), await walk.browser("key-bob")
        number = next(n for n, event in walk.page.fns.items() if getattr(event.fn, "__name__", "") == "take_sample")
        status, body = await vic.run(number, [], event_data={"pick": "col_1:item"})
        assert status == 200, body
        made = json.loads(body)["data"][0]
        assert made["url"].endswith(quote(f"/gradio_api/file={made['path']}", safe="/=:"))
        for browser, status in ((vic, 200), (bob, 404)):
            assert (await browser.ask("GET", f"/gradio_api/file={made['path']}"))[0] == status

    asyncio.run(ask())


def test_a_link_that_takes_the_place_of_an_upload_is_not_followed(walk: Walk, watch: Watch) -> None:
    async def ask() -> None:
        vic = await walk.browser("key-vic")
        path = Path(await vic.upload("x.png", png()))
        path.unlink()
        path.symlink_to(walk.private)
        number = next(number for number in walk.events if file_inputs(walk.page, number))
        values = [references_to(str(path))["alone"]] * len(walk.events[number])
        with watch.watching():
            status, _ = await vic.run(number, values)
            served, body, _ = await vic.ask("GET", f"/gradio_api/file={path}")
        assert (status, served, secrets_in(body)) == (422, 404, [])
        assert watch.opened_of({str(walk.private)}) == []

    asyncio.run(ask())


def test_gradios_own_check_holds_behind_ours(walk: Walk) -> None:
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


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "event_unreadable"),
        (b"[]", 422, "event_unreadable"),
        (b'{"data": {}}', 422, "event_unreadable"),
        (b'{"data": [NaN], "fn_index": 0}', 422, "event_unreadable"),
        (b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b', "fn_index": 2}', 422, "event_unreadable"),
        (b'{"data": [], "fn_index": 99999}', 404, "unknown_event"),
        (b'{"data": [], "fn_index": [1]}', 422, "event_unreadable"),
        (b'{"data": [], "fn_index": 2, "session_hash": "../x"}', 422, "session_hash_malformed"),
        (b'{"data": [], "fn_index": 2, "session_hash": 7}', 422, "session_hash_malformed"),
        (b'{"data": ["' + b"x" * 5_000_000 + b'"]}', 413, "event_too_large"),
    ],
)
def test_an_event_that_no_page_sends_is_refused_in_words(walk: Walk, body: bytes, status: int, code: str) -> None:
    async def ask() -> None:
        vic = await walk.browser("key-vic")
        answered, words, _ = await vic.ask("POST", "/gradio_api/run/predict", body)
        assert (answered, json.loads(words)["code"]) == (status, code)
        assert json.loads(words)["error"].endswith((".", "once."))

    asyncio.run(ask())


def test_a_value_that_is_not_offered_is_told_in_words(walk: Walk) -> None:
    async def ask() -> None:
        vic = await walk.browser("key-vic")
        number = next(n for n, f in walk.page.fns.items() if getattr(f.fn, "__name__", "") == "search")
        values = list(walk.events[number])
        values[-1] = 20  # results wanted: 12, 24, 48 or 96
        status, body = await vic.run(number, values)
        answer = json.loads(body)
        assert (status, answer["code"]) == (422, "value_not_offered")
        assert "choices" not in answer["error"]
        status, body = await vic.run(number, [])  # too few: Gradio says null
        assert (status, json.loads(body)["code"]) == (500, "event_failed")
        assert json.loads(body)["error"].startswith("The page could not do this")

    asyncio.run(ask())


def test_the_state_of_a_page_belongs_to_its_session(walk: Walk) -> None:
    """Two sessions that say the same session_hash have different state."""

    async def ask() -> None:
        vic, bob = await walk.browser("key-vic"), await walk.browser("key-bob")
        number = next(iter(walk.events))
        before = set(walk.page.state_holder.session_data)
        for browser in (vic, bob):
            await browser.run(number, walk.events[number], session_hash="same")
        made = set(walk.page.state_holder.session_data) - before
        assert len(made) == 2
        assert all(name.endswith("-same") for name in made)

    asyncio.run(ask())


def test_the_state_of_so_many_pages_is_kept(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions a key has. Each state takes half a megabyte."""
    from ui import event_files

    most = 8
    monkeypatch.setattr(event_files, "MOST_PAGES", most)

    async def ask() -> None:
        one, other = await walk.browser("key-bob"), await walk.browser("key-bob")
        number = next(iter(walk.events))
        for page in range(most + 3):
            await (one, other)[page % 2].run(number, walk.events[number], session_hash=f"many{page}")
        made = {name.partition("-")[2] for name in walk.page.state_holder.session_data if "-many" in name}
        assert made == {f"many{page}" for page in range(3, most + 3)}
        assert walk.page.state_holder.capacity == page_module.MOST_PAGES

    asyncio.run(ask())


def test_the_state_of_a_session_goes_with_it(tmp_path: Path) -> None:
    """What Gradio keeps for a page that nobody can reach any more."""

    async def ask() -> None:
        walk = Walk(tmp_path, team=True)
        vic, bob = await walk.browser("key-vic"), await walk.browser("key-bob")
        number = next(iter(walk.events))
        for browser in (vic, bob):
            await browser.run(number, walk.events[number], session_hash="s")
        assert len(walk.page.state_holder.session_data) == 2
        await vic.ask("POST", "/logout")
        assert len(walk.page.state_holder.session_data) == 1

    asyncio.run(ask())


def test_so_many_events_of_a_session_at_once(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    from ui import event_files

    monkeypatch.setattr(event_files, "MOST_AT_ONCE", 3)

    async def ask() -> list[int]:
        vic, bob = await walk.browser("key-vic"), await walk.browser("key-bob")
        number, values = next((n, v) for n, v in walk.events.items() if v)
        answers = await asyncio.gather(*(vic.run(number, values) for _ in range(5)), bob.run(number, values))
        assert (await vic.run(number, values))[0] == 200
        return [status for status, _ in answers]

    *vic, bob = asyncio.run(ask())
    assert (sorted(vic), bob) == ([200, 200, 200, 429, 429], 200)
