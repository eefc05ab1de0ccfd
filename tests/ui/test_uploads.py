"""Uploads: bounded by file, request, key and in all; deleted with their session; nothing is left of what broke off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ui.hostile_events import Browser, StubService, files_below, multipart
from ui import uploads as module
from ui.app import build_app
from ui.session_files import path_below_upload
from ui.sessions import SessionKeyAuth, SessionStore
from ui.settings import UiSettings

KIB = 1024
SMALL = {"max_upload": "8kib", "max_upload_request": "20kib", "session_uploads": "40kib", "all_uploads": "60kib"}


class Team:
    """A team's page with small bounds; each key is its own owner's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.sessions = SessionStore(3600, clock=lambda: self.now)
        settings = UiSettings(team=True, **SMALL, _env_file=None)  # type: ignore[call-arg,arg-type]
        self.app = build_app(StubService(self._mine), settings, self.sessions)  # type: ignore[arg-type]

    def _mine(self) -> Any:
        request = httpx.Request("GET", "http://service")
        next(SessionKeyAuth(self.sessions).auth_flow(request))
        return {"owner": request.headers["authorization"], "role": "viewer"}

    async def browser(self, key: str = "vic") -> Browser:
        browser = Browser(self.app)
        await browser.sign_in(key)
        return browser

    def kept(self) -> int:
        """Bytes on the disk."""
        return sum(Path(path).stat().st_size for path in files_below(self.root))


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(module, "MULTIPART_OVERHEAD_BYTES", 2 * KIB)
    return Team(tmp_path / "uploads")


async def send(browser: Browser, *sizes: int, field: str = "files", chunks: int = 0) -> tuple[int, str]:
    """Files of these sizes in one request; in so many chunks without a length, if that is asked for."""
    body, headers = multipart({f"{place}.bin": bytes(size) for place, size in enumerate(sizes)}, field)
    if chunks:
        return await dripped(browser, body, headers, chunks)
    status, answer, _ = await browser.request("POST", "/gradio_api/upload", body, headers)
    return status, answer.decode()


async def dripped(browser: Browser, body: bytes, headers: dict[str, str], chunks: int) -> tuple[int, str]:
    """The body in pieces; the first of 0 pieces hangs up after a half."""
    size = -(-len(body) // abs(chunks))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    app = browser.app

    async def with_pieces(scope: Any, receive: Any, send: Any) -> None:
        left = iter(pieces if chunks > 0 else pieces[:-1])

        async def receive_piece() -> Any:
            piece = next(left, None)
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": chunks < 0 or piece is not pieces[-1]}

        kept = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        await app({**scope, "headers": [*kept, (b"transfer-encoding", b"chunked")]}, receive_piece, send)

    dripping = Browser(with_pieces)
    dripping.cookies = browser.cookies
    status, answer, _ = await dripping.request("POST", "/gradio_api/upload", body, headers)
    return status, answer.decode()


def test_files_are_bounded_one_by_one_and_together_and_nothing_is_kept_of_what_is_refused(team: Team) -> None:
    async def scenario() -> None:
        browser = await team.browser()
        for chunks in (0, 5):  # with and without a length
            status, words = await send(browser, 1, 9 * KIB, chunks=chunks)
            assert (status, words) == (413, "A file is too large. At most 8,192 bytes.")
            status, words = await send(browser, *[7 * KIB] * 4, chunks=chunks)
            assert (status, words) == (413, "These files are too large together. At most 20,480 bytes.")
        assert files_below(team.root) == {}
        assert (await send(browser, *[6 * KIB] * 3))[0] == 200

    asyncio.run(scenario())


def test_a_length_that_is_too_large_is_refused_before_anything_is_written(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(module, "GradioMultiPartParser", lambda *args, **kwargs: made.append(args))

    async def scenario() -> int:
        return (await send(await team.browser(), *[8 * KIB] * 9))[0]

    assert (asyncio.run(scenario()), made) == (413, [])


def test_older_files_of_a_key_give_way_in_all_of_its_sessions(team: Team) -> None:
    async def scenario() -> None:
        browsers = [await team.browser("vic") for _ in range(3)]
        [first] = json.loads((await send(browsers[0], 8 * KIB))[1])
        for browser in browsers * 3:
            assert (await send(browser, 8 * KIB))[0] == 200
        assert team.kept() == 40 * KIB
        assert (await browsers[0].request("GET", f"/gradio_api/file={first}"))[0] == 404

    asyncio.run(scenario())


def test_empty_files_count_too(team: Team) -> None:
    async def scenario() -> None:
        vic = await team.browser("vic")
        for _ in range(4):
            assert (await send(vic, *[0] * 5))[0] == 200
        assert len(files_below(team.root)) == 10, "40 KiB of files of 4 KiB"

    asyncio.run(scenario())


def test_one_key_cannot_fill_the_page_for_the_others(team: Team) -> None:
    async def scenario() -> None:
        vic, bob, eve = [await team.browser(key) for key in ("vic", "bob", "eve")]
        for _ in range(4):
            assert (await send(vic, 8 * KIB, 8 * KIB))[0] == 200
        assert (await send(bob, 8 * KIB, 8 * KIB))[0] == 200
        status, words = await send(eve, 8 * KIB, 8 * KIB)
        assert (status, words) == (507, "The page has no room for more files at the moment. Try again later.")
        await vic.request("POST", "/logout")
        assert (await send(eve, 8 * KIB, 8 * KIB))[0] == 200
        assert team.kept() <= 60 * KIB

    asyncio.run(scenario())


@pytest.mark.parametrize("ending", ["signing out", "time", "a revoked key", "signing in anew"])
def test_the_files_of_a_session_end_with_it(team: Team, ending: str) -> None:
    async def scenario() -> None:
        vic, bob = await team.browser("vic"), await team.browser("bob")
        await send(vic, KIB, KIB)
        await send(bob, KIB)
        assert team.kept() == 3 * KIB
        if ending == "signing out":
            await vic.request("POST", "/logout")
        elif ending == "signing in anew":
            await vic.sign_in("vic")
        elif ending == "a revoked key":
            team.sessions.close_key("vic")
        else:
            team.now += 3600
            team.sessions.close_expired()
        assert team.kept() == (0 if ending == "time" else KIB)
        assert all(any(folder.iterdir()) for folder in team.root.rglob("*") if folder.is_dir())

    asyncio.run(scenario())


@pytest.mark.parametrize(("most", "size", "taken"), [(2, KIB, 2), (8, 16 * KIB, 2)])
def test_uploads_of_a_key_under_way_are_bounded_by_number_and_by_what_they_announce(
    team: Team, monkeypatch: pytest.MonkeyPatch, most: int, size: int, taken: int
) -> None:
    go_on, waiting = asyncio.Event(), asyncio.Semaphore(0)
    limited = module._limited

    async def held(*args: Any) -> AsyncIterator[bytes]:
        waiting.release()
        await go_on.wait()
        async for chunk in limited(*args):
            yield chunk

    monkeypatch.setattr(module, "_limited", held)
    monkeypatch.setattr(module, "MAX_UPLOADS", most)
    page = Team(team.root)
    halves = [size // 2] * 2

    async def scenario() -> None:
        browsers = [await page.browser("vic") for _ in range(2)]
        under_way = [asyncio.create_task(send(browsers[number % 2], *halves)) for number in range(taken)]
        for _ in under_way:
            await waiting.acquire()
        status, words = await send(browsers[0], *halves)
        assert (status, words.startswith("Too many ")) == (429, True)
        go_on.set()
        assert [(await task)[0] for task in under_way] == [200] * taken
        assert (await send(browsers[0], *halves))[0] == 200

    asyncio.run(scenario())


def test_of_an_upload_that_breaks_off_or_takes_too_long_nothing_is_left(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        browser = await team.browser()
        broken = await send(browser, 8 * KIB, 8 * KIB, chunks=-4)
        assert broken == (400, "The upload was broken off.")
        app = browser.app

        async def silent(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, asyncio.Event().wait, send)

        monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.05)
        browser.app = silent
        assert (await send(browser, KIB))[0] == 408
        assert files_below(team.root) == {}

    asyncio.run(scenario())


def test_what_arrives_after_its_session_has_ended_is_not_kept(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = module._limited

    async def signing_out_meanwhile(*args: Any) -> AsyncIterator[bytes]:
        team.sessions.close_key("vic")
        async for chunk in limited(*args):
            yield chunk

    monkeypatch.setattr(module, "_limited", signing_out_meanwhile)

    async def scenario() -> None:
        browser = await team.browser()
        await send(browser, KIB)
        assert list(team.root.iterdir()) == []
        assert (await send(browser, KIB))[0] == 401

    asyncio.run(scenario())


def test_a_disk_that_takes_no_more_is_reported_in_words(team: Team) -> None:
    async def scenario() -> None:
        browser = await team.browser()
        team.root.parent.mkdir(exist_ok=True)
        team.root.write_text("a file where the folder should be")
        for _ in range(module.MAX_UPLOADS + 1):  # a refusal holds no place
            status, words = await send(browser, KIB)
            assert (status, words.startswith("The page cannot write the file")) == (507, True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"x", {"content-type": "text/plain"}),
        (b"x", {"content-type": "multipart/form-data"}),
        (b"x", {"content-type": "multipart/form-data; boundary=edge"}),
        (multipart({"x": b"y"})[0].replace(b'; filename="x"', b""), multipart({})[1]),
        (multipart({"x": b"y"})[0].replace(b"\r\n\r\n", b"\r\nh: " + b"x" * 9000 + b"\r\n\r\n"), multipart({})[1]),
        multipart({"x": b"y"}, field="other"),
    ],
)
def test_what_is_no_upload_is_refused_or_empty(team: Team, body: bytes, headers: dict[str, str]) -> None:
    async def scenario() -> None:
        browser = await team.browser()
        status, words, _ = await browser.request("POST", "/gradio_api/upload?upload_id=u", body, headers)
        assert (status, words) == (200, b"[]") or status == 400
        assert files_below(team.root) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x y.png", "x y.png"),
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        (".", "file"),
        ("", "file"),
        ("a/b\\\\c.png", "bc.png"),
        ("What now?!.png", "What now?!.png"),
        ("a: <b> | {c} *$d.png", "a: <b> | {c} *$d.png"),
        ("con.md", "con.md"),
        ("the end. ", "the end. "),
        ("a\tb\x7f\x00.png", "ab.png"),
        (".\x01.", "file"),
        ("ü" * 300 + ".png", "ü" * 125 + ".png"),
        ("x." + "y" * 300, "x." + "y" * 253),
    ],
)
def test_an_upload_stays_in_a_folder_of_its_own(team: Team, name: str, kept: str) -> None:
    async def scenario() -> None:
        path = Path(await (await team.browser()).upload(name, b"data"))
        assert path.parents[4] == team.root
        assert path.read_bytes() == b"data"
        assert path.name == kept
        assert path.parents[1].stat().st_mode & 0o077 == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("photos/train/red & fox: 1/1.png", "train/red & fox: 1/1.png"),
        ("photos/" + "/".join("abcdefghijklmnopqrst") + "/1.png", "/".join("ijklmnopqrst") + "/1.png"),
        (
            "photos/" + "/".join(each * 255 for each in "abcdefghijklm") + "/1.png",
            "/".join(each * 255 for each in "bcdefghijklm") + "/1.png",
        ),
        ("photos/1.png", "1.png"),
        ("/etc/1.png", "1.png"),
        ("photos/../1.png", "1.png"),
        ("photos/ . /1.png", "1.png"),
        ("../../../fox/1.png", "1.png"),
    ],
)
def test_folders_below_the_chosen_one_are_kept_above_the_file(team: Team, name: str, below: str) -> None:
    async def scenario() -> None:
        path = Path(await (await team.browser()).upload(name, b"x"))
        assert path_below_upload(path, team.root).as_posix() == below
        assert path.read_bytes() == b"x"

    asyncio.run(scenario())


def test_a_file_whose_name_has_signs_of_markup_and_addresses_is_downloaded_and_not_shown(team: Team) -> None:
    async def scenario() -> None:
        browser = await team.browser()
        path = await browser.upload("<b>50%? #1.html", b"<script>1</script>")
        app = browser.app

        async def with_name(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "path": f"/gradio_api/file={path}", "query_string": b""}, receive, send)

        reading = Browser(with_name)
        reading.cookies = browser.cookies
        status, data, headers = await reading.request("GET", "/gradio_api/file=")
        assert (status, data) == (200, b"<script>1</script>")
        assert headers["content-disposition"] == "attachment; filename*=utf-8''%3Cb%3E50%25%3F%20%231.html"
        assert (headers["content-type"], headers["x-content-type-options"]) == ("application/octet-stream", "nosniff")

    asyncio.run(scenario())


def test_the_progress_of_an_upload_is_reported_to_its_own_session(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_START_SECONDS", 0.2)

    async def scenario() -> None:
        vic, bob = await team.browser("vic"), await team.browser("bob")
        body, headers = multipart({"mine.bin": bytes(4 * KIB)})
        upload = asyncio.create_task(vic.request("POST", "/gradio_api/upload?upload_id=u1", body, headers))
        address = "/gradio_api/upload_progress?upload_id=u1"
        reported = await asyncio.gather(*(each.request("GET", address) for each in (vic, bob)))
        assert (await upload)[0] == 200
        assert [status for status, _, _ in reported] == [200, 200]
        assert all(body.endswith(b'data: {"msg": "done"}\n\n') for _, body, _ in reported)
        assert b"mine.bin" not in reported[1][1]

    asyncio.run(scenario())
