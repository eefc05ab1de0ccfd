"""Sends hostile file references to every event of the page, and records what the process opens meanwhile.

The events are read off the page itself, so that a new one is walked without a change here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import Message, Scope

from api.client import ApiError

HOST = "127.0.0.1:7865"
META = {"meta": {"_type": "gradio.FileData"}}
Json = Any


class Watch:
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
    def watching(self) -> Iterator[Watch]:
        self.opened, self.connected, self.on = [], [], True
        try:
            yield self
        finally:
            self.on = False

    def opened_of(self, paths: set[str]) -> list[str]:
        """Which of these files were opened, under whatever name."""
        return [path for path in self.opened if path in paths or os.path.realpath(path) in paths]


class EveryService:
    """Answers each call of the client with as much as lets an event go on, and keeps all bytes that it was given."""

    ANSWERS: Mapping[str, Any] = {
        "encoders": [{"id": "enc_1", "name": "one", "hash": "1"}, {"id": "enc_2", "name": "two", "hash": "2"}],
        "collections": [
            {"id": "col_1", "name": "drawings", "images": 1, "encoder_hash": "1", "dataset": "sample"},
            {"id": "col_2", "name": "others", "images": 1, "encoder_hash": "2", "dataset": "sample"},
        ],
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

    async def ask(
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
        status, _, _ = await self.ask("POST", "/login", f"key={key}".encode(), form)
        assert status == 303

    async def upload(self, name: str, data: bytes) -> str:
        """Returns: the path that the page gave the file."""
        status, body, _ = await self.ask("POST", "/gradio_api/upload", *multipart({name: data}))
        assert status == 200, body
        [path] = json.loads(body)
        return str(path)

    async def run(self, number: int, data: list[Json], **more: Json) -> tuple[int, bytes]:
        event = {"fn_index": number, "data": data, "session_hash": "walk", "event_data": None, **more}
        body = json.dumps(event).encode()
        status, answer, _ = await self.ask(
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
    return [place for place, id_ in enumerate(event["inputs"]) if parts[id_]["type"] in ("image", "file")]


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
