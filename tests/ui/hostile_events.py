"""Sends hostile file references to every event of the page, and records what the process opens meanwhile.

The events are read off the page itself, so that a new one is walked without a change here.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.types import Message, Scope

from api.client import ApiError
from ui import app as page_module
from ui.sessions import SessionKeyAuth, SessionStore
from ui.settings import UiSettings

HOST = "127.0.0.1:7865"
META = {"meta": {"_type": "gradio.FileData"}}
Json = Any
PRIVATE, KEY, OTHER_OWNERS_FILE = b"private-5c1d7e", b"lcl_key.9f2b44", b"of-another-owner-77aa10"
TOKEN = "walking-over-the-page-1"
OWNERS = {"key-vic": ("vic", "viewer"), "key-bob": ("bob", "submitter"), "key-eve": ("eve", "submitter")}


class AccessMonitor:
    """Every file that is opened and every address that is asked for, in any thread, while ``on`` is set."""

    def __init__(self) -> None:
        self.on = False
        self.opened: list[str] = []
        self.connected: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self.opened.append(os.fsdecode(arguments[0]))
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            self.connected.append(f"{event} {arguments[1:] if event == 'socket.connect' else arguments}")

    @contextmanager
    def watching(self) -> Iterator[AccessMonitor]:
        self.opened, self.connected, self.on = [], [], True
        try:
            yield self
        finally:
            self.on = False

    def opened_of(self, paths: set[str]) -> list[str]:
        """Which of these files were opened, under whatever name."""
        return [path for path in self.opened if path in paths or os.path.realpath(path) in paths]


class StubService:
    """Answers each call of the client with as much as lets an event go on, and keeps all bytes that it was given."""

    ANSWERS: Mapping[str, Any] = {
        "encoders": [{"id": "enc_1", "name": "one", "hash": "1"}, {"id": "enc_2", "name": "two", "hash": "2"}],
        "collections": [
            {"id": "col_1", "name": "drawings", "images": 1, "encoder_id": "enc_1", "dataset": "sample"},
            {"id": "col_2", "name": "others", "images": 1, "encoder_id": "enc_2", "dataset": "sample"},
        ],
        "encoder_figures": [],
        "item_image": b"",
    }

    def __init__(self, owner: Callable[[], Json]) -> None:
        self.given: list[bytes] = []
        self.owner = owner
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.given += list(_bytes_in([args, kwargs]))
            if name == "own_key":
                return self.owner()
            if name in self.ANSWERS:
                return self.ANSWERS[name]
            raise ApiError(422, "not_here", f"{name} is not answered")

        return call


def _bytes_in(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, Path):  # the client reads the files that it is given, not the names of images
        yield value.read_bytes() if value.is_absolute() else b""
    elif isinstance(value, dict):
        yield from _bytes_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _bytes_in(each)


class Browser:
    """Asks an ASGI application without a socket, and keeps its cookies."""

    def __init__(self, app: Any, host: str = HOST, scheme: str = "http") -> None:
        self.app = app
        self.host = host
        self.scheme = scheme
        self.cookies: dict[str, str] = {}

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Returns: status, body, headers in lower case (of several of one name the last)."""
        path, _, query = path.partition("?")
        given = {"host": self.host, "content-length": str(len(body)), **(headers or {})}
        if self.cookies:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        name, _, port = self.host.partition(":")
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": self.scheme,
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1), "server": (name, int(port or 80)),
        }  # fmt: skip
        status, answered, parts, is_asked = 0, {}, [], False

        async def receive() -> Message:
            nonlocal is_asked
            if is_asked:
                await asyncio.Event().wait()  # the browser stays until it has the answer
            is_asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for key, value in message["headers"]:
                    answered[key.decode().lower()] = value.decode()
                    if key.lower() == b"set-cookie":
                        self.cookies.update([value.decode().split(";")[0].split("=", 1)])
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await self.app(scope, receive, send)
        return status, b"".join(parts), answered

    async def sign_in(self, key: str) -> None:
        form = {"content-type": "application/x-www-form-urlencoded"}
        status, _, _ = await self.request("POST", "/login", f"key={key}".encode(), form)
        assert status == 303

    async def upload(self, name: str, data: bytes) -> str:
        """Returns: the path that the page gave the file."""
        status, body, _ = await self.request("POST", "/gradio_api/upload", *multipart({name: data}))
        assert status == 200, body
        [path] = json.loads(body)
        return str(path)

    async def run(self, number: int, data: list[Json], **more: Json) -> tuple[int, bytes]:
        event = {"fn_index": number, "data": data, "session_hash": "walk", "event_data": None, **more}
        body = json.dumps(event).encode()
        status, answer, _ = await self.request(
            "POST", "/gradio_api/run/predict", body, {"content-type": "application/json"}
        )
        return status, answer


def multipart(files: Mapping[str, bytes], field: str = "files") -> tuple[bytes, dict[str, str]]:
    """Body and headers of an upload."""
    parts = b"".join(
        f'--edge\r\ncontent-disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in files.items()
    )
    return parts + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


def events_of(page: Any) -> dict[int, list[Json]]:
    """Every event with a part in Python: its number -> the values that its inputs have on a fresh page."""
    parts = {part["id"]: part for part in page.config["components"]}
    return {
        event["id"]: [parts[id_]["props"].get("value") for id_ in event["inputs"]]
        for event in page.config["dependencies"]
        if event["backend_fn"]
    }


def file_inputs(page: Any, number: int) -> list[int]:
    """Positions of an event's inputs that take files."""
    parts = {part["id"]: part for part in page.config["components"]}
    event = next(each for each in page.config["dependencies"] if each["id"] == number)
    return [place for place, id_ in enumerate(event["inputs"]) if parts[id_]["type"] in ("multimodaltextbox", "file")]


def file_value(kind: str, reference: Json) -> Json:
    """What a component of this kind sends of one file."""
    return [reference] if kind == "file" else {"text": "", "files": [reference]}


def references_to(path: str, url: str | None = None) -> dict[str, Json]:
    """A file, named in all the ways in which an argument can name one."""
    plain: Json = {"path": path, "orig_name": "x.png", **META} | ({"url": url} if url else {})
    return {
        "alone": plain,
        "in a list": [plain],
        "in an object": {"value": {"deep": [plain]}},
        "in a gallery": [{"image": plain, "caption": None}, [plain, "words"]],
        "without meta": {"path": path},
        "as its url": {"path": None, "url": path, **META},
        "as meta of a file": {"path": "x", "meta": {"_type": "gradio.FileData", "inner": plain}},
    }


def arguments(values: list[Json], reference: Json) -> Iterator[list[Json]]:
    """The arguments of an event with the reference at each position in turn, and at all of them."""
    for place in range(len(values)):
        yield [*values[:place], reference, *values[place + 1 :]]
    if len(values) > 1:
        yield [reference] * len(values)
    yield [*values, reference]  # one more than the event takes


def files_below(folder: Path) -> Counter[str]:
    return Counter(str(path) for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "crimson").save(out, "PNG")
    return out.getvalue()


class HostilePage:
    """A page of one kind with its service, its hostile files, and the sessions that name them."""

    def __init__(self, folder: Path, team: bool) -> None:
        self.uploads = folder / "uploads"
        self.is_team = team
        self.sessions = SessionStore(3600)
        self.service = StubService(self._owner)
        self.service.ANSWERS = {**StubService.ANSWERS, "item_image": png()}
        built: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            build = page_module.build_page
            patch.setattr(page_module, "build_page", lambda *args: built.append(build(*args)) or built[-1])
            settings = UiSettings(team=team, token=TOKEN, _env_file=None)  # type: ignore[call-arg]
            self.app = page_module.build_app(self.service, settings, self.sessions if team else None)  # type: ignore[arg-type]
        [self.page] = built
        self.events = events_of(self.page)
        self.private = folder / "closed" / "private.png"
        self.private.parent.mkdir(mode=0o700)
        self.private.write_bytes(PRIVATE)
        self.key = folder / "home" / "key"
        self.key.parent.mkdir(mode=0o700)
        self.key.write_bytes(KEY)

    def _owner(self) -> Any:
        request = httpx.Request("GET", "http://service")
        next(SessionKeyAuth(self.sessions).auth_flow(request))
        owner, role = OWNERS[request.headers["authorization"].removeprefix("Bearer ")]
        return {"owner": owner, "role": role}

    async def browser(self, key: str | None) -> Browser:
        """With a session of that key (on one machine: a session of its own), or without one."""
        browser = Browser(self.app)
        if key and self.sessions and not await self._opened(browser):
            await browser.sign_in(key)
        return browser

    async def _opened(self, browser: Browser) -> bool:
        status, _, headers = await browser.request("GET", f"/?token={TOKEN}")
        return status == 303 and headers["location"] == "./"

    async def hostile(self) -> dict[str, str]:
        """Name of a target -> what an event says in place of a path."""
        theirs = await (await self.browser("key-eve")).upload("theirs.png", OTHER_OWNERS_FILE)
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
