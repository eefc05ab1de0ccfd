"""What an event of the page may bring along: files that its own session uploaded, under that session's own state.

Gradio believes every file reference in an event: a path of the server's disk, an address to fetch. This check stands in
front of it. It parses the event, refuses each reference to anything but a file of the session, and passes on what it
has parsed itself, so that nothing can mean one thing here and another there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.session_files import SessionFiles
from ui.sessions import SESSION_SCOPE_KEY, SessionStore
from ui.uploads import GRADIO_PREFIX

EVENT_PATH = f"{GRADIO_PREFIX}/run/predict"
HEARTBEAT_PATH = f"{GRADIO_PREFIX}/heartbeat/"
MAX_EVENT_BYTES = 4 * 2**20  # of one event: the largest spec that the service takes, twice
BODY_SECONDS = 30.0
MAX_CONCURRENT_EVENTS = 64  # events of one session
MAX_OPEN_PAGES = 64  # open pages of one key whose state is kept, half a MB each
PAGE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
EVENT_FIELDS = ("data", "event_data", "fn_index", "trigger_id")
MIME_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}", re.ASCII)

FILE_NOT_OWNED = (
    "This file is not among those that you uploaded on this page, or it is no longer kept. Choose it again."
)
PAGE_CHANGED = "This page has changed since you opened it. Reload it, then try again."
TOO_MANY_EVENTS = "Too much is asked at once. Wait until some of it is answered, then try again."
EVENT_UNREADABLE = "The page could not read what was sent. Reload it, then try again."
EVENT_TOO_LARGE = "That is more than the page takes at once."
VALUE_NOT_OFFERED = "One of the values is not among those that this form offers. Reload the page, then choose again."
EVENT_FAILED = "The page could not do this. Reload it, then try again; if it fails again, the page's log says why."


class EventError(Exception):
    """``status`` is HTTP's, ``code`` is for programs; the words are for the visitor, and Gradio's page shows them."""

    def __init__(self, status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.code = code

    def answer(self) -> Response:
        return JSONResponse({"error": str(self), "code": self.code}, self.status)


class EventFileMiddleware:
    """Checks each event before Gradio sees it, and learns which files Gradio made for its answer. Plain ASGI.

    Args:
        events: numbers of the page's events.
        forget: called with the name of a state that Gradio need not keep any more.
    """

    def __init__(
        self,
        app: ASGIApp,
        files: SessionFiles,
        visitors: SessionStore,
        events: Collection[int],
        forget: Callable[[str], None],
    ) -> None:
        self.app = app
        self.files = files
        self.visitors = visitors
        self.events = events
        self.forget = forget
        self._at_once: Counter[str] = Counter()
        self._pages: dict[str, OrderedDict[str, str]] = {}  # key -> name of an open page -> its session
        visitors.on_end.append(self._end)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith((EVENT_PATH, HEARTBEAT_PATH)):
            await self.app(scope, receive, send)
            return
        session = scope[SESSION_SCOPE_KEY]
        try:
            if scope["path"] == EVENT_PATH:
                await self._run(session, scope, receive, send)
            else:
                name = self._page_of(session, scope["path"].removeprefix(HEARTBEAT_PATH))
                path = HEARTBEAT_PATH + name
                await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send)
        except EventError as refused:
            await refused.answer()(scope, receive, send)

    async def _run(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: Refused, before anything was answered."""
        if self._at_once[session] >= MAX_CONCURRENT_EVENTS:
            raise EventError(429, "too_many_events", TOO_MANY_EVENTS)
        self._at_once[session] += 1
        try:
            event = self._checked(session, await _read_body(receive))
            answer = await _call_app(self.app, scope, json.dumps(event).encode(), receive)
            await self._seen(session, answer)(scope, receive, send)
        finally:
            self._at_once[session] -= 1
            if not self._at_once[session]:
                del self._at_once[session]

    def _checked(self, session: str, body: bytes) -> dict[str, Any]:
        """The event as Gradio may see it. Raises: Refused."""
        try:
            given = json.loads(body, parse_constant=_reject_constant)
            if not isinstance(given, dict) or not isinstance(given.get("data"), list):
                raise ValueError
            if given.get("fn_index") not in self.events:
                raise EventError(404, "unknown_event", PAGE_CHANGED)
            event = {name: self._clean(session, given.get(name)) for name in EVENT_FIELDS}
        except (ValueError, TypeError, RecursionError):  # TypeError: a number that is a list
            raise EventError(422, "event_unreadable", EVENT_UNREADABLE) from None
        if given.get("session_hash") is not None:
            event["session_hash"] = self._page_of(session, given["session_hash"])
        return event

    def _clean(self, session: str, value: Any) -> Any:
        """The same with each file reference in it checked and made anew. Raises: Refused."""
        if isinstance(value, list):
            return [self._clean(session, each) for each in value]
        if not isinstance(value, dict):
            return value
        if "path" in value or "url" in value or "meta" in value:
            return self._file(session, value)
        return {name: self._clean(session, each) for name, each in value.items()}

    def _file(self, session: str, given: dict[str, Any]) -> dict[str, Any]:
        """Nothing of the reference is passed on but what describes the file: its address is Gradio's to make."""
        path, url, name = given.get("path"), given.get("url"), given.get("orig_name")
        found = self.files.find(session, path) if isinstance(path, str) else None
        if found is None or not (url is None or _is_url_of(url, str(path))):
            raise EventError(422, "file_unknown", FILE_NOT_OWNED)
        clean: dict[str, Any] = {"path": str(found), "meta": {"_type": "gradio.FileData"}}
        if isinstance(name, str):
            clean["orig_name"] = name[:255]
        if isinstance(kind := given.get("mime_type"), str) and MIME_TYPE.fullmatch(kind):
            clean["mime_type"] = kind
        return clean | {"size": found.stat().st_size}

    def _page_of(self, session: str, name: Any) -> str:
        """What Gradio knows one open page of a session by: no other session can say that name. Raises: Refused."""
        if not isinstance(name, str) or not PAGE_NAME.fullmatch(name):
            raise EventError(422, "session_hash_malformed", EVENT_UNREADABLE)
        visitor = self.visitors.find(session)
        pages = self._pages.setdefault(visitor.key if visitor else "", OrderedDict())
        scoped = f"{hashlib.sha256(session.encode()).hexdigest()[:32]}-{name}"
        pages[scoped] = session
        pages.move_to_end(scoped)
        if len(pages) > MAX_OPEN_PAGES:
            self.forget(pages.popitem(last=False)[0])
        return scoped

    def _seen(self, session: str, answer: Response) -> Response:
        """The answer, or words in place of an error that Gradio leaves without; files in it become the session's."""
        body = bytes(answer.body)
        if answer.status_code >= 400:
            return _readable_error(body)
        if b"gradio.FileData" in body:
            visitor = self.visitors.find(session)
            for path in _paths_in(json.loads(body)):
                if visitor is not None:
                    self.files.keep(session, visitor.key, path)
        return answer

    def _end(self, session: str) -> None:
        self.files.end(session)
        for key, pages in list(self._pages.items()):
            for scoped in [scoped for scoped, other in list(pages.items()) if other == session]:
                pages.pop(scoped, None)
                self.forget(scoped)
            if not pages:
                self._pages.pop(key, None)


def _reject_constant(name: str) -> Any:
    raise ValueError(name)


def _is_url_of(url: Any, path: str) -> bool:
    """Whether it is the page's own address of that very file, as the browser gives it back."""
    return isinstance(url, str) and unquote(url).endswith(f"{GRADIO_PREFIX}/file={unquote(path)}")


def _paths_in(value: Any) -> Iterator[Path]:
    """Of every file reference in an answer; text that looks like one is none."""
    if isinstance(value, list):
        for each in value:
            yield from _paths_in(each)
    elif isinstance(value, dict):
        if isinstance(value.get("path"), str) and isinstance(value.get("meta"), dict):
            yield Path(value["path"])
        else:
            yield from _paths_in(list(value.values()))


def _readable_error(body: bytes) -> Response:
    """Gradio's own errors name Python's values, or say ``null``."""
    try:
        said = json.loads(body).get("error")
    except (ValueError, AttributeError):
        said = None
    if isinstance(said, str) and said.startswith("Value"):  # of a choice or a number that no such form would send
        return EventError(422, "value_not_offered", VALUE_NOT_OFFERED).answer()
    return EventError(500, "event_failed", EVENT_FAILED).answer()


async def _read_body(receive: Receive) -> bytes:
    """Raises: Refused when it is too large or does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_EVENT_BYTES:
                    raise EventError(413, "event_too_large", EVENT_TOO_LARGE)
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise EventError(408, "event_too_slow", EVENT_UNREADABLE) from None


async def _call_app(app: ASGIApp, scope: Scope, body: bytes, receive: Receive) -> Response:
    """What the application answers to this body, whole. It may ask on whether the browser is still there."""
    headers = MutableHeaders(raw=[pair for pair in scope["headers"] if pair[0] != b"accept-encoding"])
    headers["content-type"], headers["content-length"] = "application/json", str(len(body))
    if "transfer-encoding" in headers:
        del headers["transfer-encoding"]
    sent = False
    answer, parts = Response(), bytearray()

    async def receive_checked() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send_here(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status_code = message["status"]
            answer.raw_headers = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
        elif message["type"] == "http.response.body":
            parts.extend(message.get("body", b""))

    await app({**scope, "headers": headers.raw}, receive_checked, send_here)
    answer.body = bytes(parts)
    answer.raw_headers.append((b"content-length", str(len(parts)).encode()))
    return answer
