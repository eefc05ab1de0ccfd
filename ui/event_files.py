"""Events of the page may refer only to files that their own session uploaded, under the state of that session.

Gradio accepts every file reference in an event: a path on the server's disk, an address to fetch. This middleware
parses the event, rejects references to other files, and passes on what it has serialised itself, so that no reference
can be read in two ways.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.client import ApiError
from ui.security import RequestPlaces
from ui.session_files import STORE_SCOPE_KEY, SessionFiles
from ui.sessions import SESSION_SCOPE_KEY, SessionStore
from ui.uploads import GRADIO_PREFIX

EVENT_PATH = f"{GRADIO_PREFIX}/run/predict"
HEARTBEAT_PATH = f"{GRADIO_PREFIX}/heartbeat/"
MAX_EVENT_BYTES = 4 * 2**20  # of one event: twice the largest spec that the service accepts
BODY_SECONDS = 30.0
MAX_CONCURRENT_EVENTS = 24  # of one key, of the 40 threads in which all events run
MAX_OPEN_PAGES = 64  # of one key whose state Gradio keeps, half a MB part
PAGE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
EVENT_FIELDS = ("event_data", "fn_index", "trigger_id")  # beside its data
MIME_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}", re.ASCII)

FILE_NOT_OWNED = (
    "This file is not among those that you uploaded on this page, or it is no longer kept. Choose it again."
)
PAGE_CHANGED = "This page has changed since you opened it. Reload it, then try again."
EVENT_UNREADABLE = "The page could not read what was sent. Reload it, then try again."
EVENT_TOO_LARGE = "That is more than the page takes at once."
VALUE_NOT_OFFERED = "One of the values is not among those that this form offers. Reload the page, then choose again."
EVENT_FAILED = "The page could not do this. Reload it, then try again; if it fails again, the page's log says why."


class EventError(Exception):
    """A rejected event. ``code`` is for programs; Gradio's page shows the message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> Response:
        return JSONResponse({"error": str(self), "code": self.code}, self.status)


class EventFileMiddleware:
    """Checks each event, of the numbers ``events``, and says which page states Gradio can drop or is to keep."""

    def __init__(
        self,
        app: ASGIApp,
        files: SessionFiles,
        sessions: SessionStore,
        events: Collection[int],
        drop_state: Callable[[str], None],
        keep_state: Callable[[str], None],
    ) -> None:
        self.app = app
        self.files = files
        self.sessions = sessions
        self.events = events
        self.drop_state = drop_state
        self.keep_state = keep_state
        self._places = RequestPlaces(MAX_CONCURRENT_EVENTS)
        self._pages: dict[str, OrderedDict[str, str]] = {}  # key -> name of an open page -> session
        sessions.on_end.append(self._close_session)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith((EVENT_PATH, HEARTBEAT_PATH)):
            await self.app(scope, receive, send)
            return
        session = scope[SESSION_SCOPE_KEY]
        try:
            if scope["path"] == EVENT_PATH:
                await self._handle_event(session, scope, receive, send)
            else:
                name = self._page_name(session, scope["path"].removeprefix(HEARTBEAT_PATH))
                path = HEARTBEAT_PATH + name
                await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send)
        except EventError as error:
            await error.response()(scope, receive, send)

    async def _handle_event(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: EventError, before the response begins."""
        user = self.sessions.find(session)
        key = user.key if user else ""
        try:
            async with self._places.taken(key):
                event = self._check_event(session, await _read_body(receive))
                scope[STORE_SCOPE_KEY] = partial(self.files.store_bytes, session, key)
                response = await _call_app(self.app, scope, json.dumps(event).encode(), receive)
                await (response if response.status_code < 400 else _readable_error(response))(scope, receive, send)
        except ApiError as error:
            raise EventError(error.status, error.code, error.message) from error

    def _check_event(self, session: str, body: bytes) -> dict[str, Any]:
        """The event for Gradio. Raises: EventError."""
        try:
            raw = json.loads(body, parse_constant=_reject_constant)
            if not isinstance(raw, dict) or not isinstance(raw.get("data"), list):
                raise ValueError
            if raw.get("fn_index") not in self.events:
                raise EventError(404, "unknown_event", PAGE_CHANGED)
            event = {name: self._check_value(session, raw.get(name)) for name in EVENT_FIELDS}
            event["data"] = [self._check_value(session, value) for value in raw["data"]]
        except (ValueError, TypeError, RecursionError):  # TypeError: fn_index is a list
            raise EventError(422, "event_unreadable", EVENT_UNREADABLE) from None
        if raw.get("session_hash") is not None:
            event["session_hash"] = self._page_name(session, raw["session_hash"])
        return event

    def _check_value(self, session: str, value: Any) -> Any:
        """A copy in which every file reference has been checked. Raises: EventError."""
        if isinstance(value, list):
            return [self._check_value(session, part) for part in value]
        if not isinstance(value, dict):
            return value
        if "path" in value or "url" in value or "meta" in value:
            return self._check_file(session, value)
        return {name: self._check_value(session, part) for name, part in value.items()}

    def _check_file(self, session: str, reference: dict[str, Any]) -> dict[str, Any]:
        """A new reference with the checked path and descriptive fields; Gradio adds the address. Raises: EventError."""
        path, url, name = reference.get("path"), reference.get("url"), reference.get("orig_name")
        file = self.files.find(session, path) if isinstance(path, str) else None
        # the browser returns the page's own address of the file, if any
        own = isinstance(url, str) and unquote(url).endswith(f"{GRADIO_PREFIX}/file={unquote(str(path))}")
        if file is None or not (url is None or own):
            raise EventError(422, "file_unknown", FILE_NOT_OWNED)
        clean: dict[str, Any] = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
        if isinstance(name, str):
            clean["orig_name"] = name[:255]
        if isinstance(kind := reference.get("mime_type"), str) and MIME_TYPE.fullmatch(kind):
            clean["mime_type"] = kind
        return clean | {"size": file.stat().st_size}

    def _page_name(self, session: str, name: Any) -> str:
        """Name of an open page for Gradio; it contains a hash of the session. Raises: EventError."""
        if not isinstance(name, str) or not PAGE_NAME.fullmatch(name):
            raise EventError(422, "session_hash_malformed", EVENT_UNREADABLE)
        user = self.sessions.find(session)
        pages = self._pages.setdefault(user.key if user else "", OrderedDict())
        page = f"{hashlib.sha256(session.encode()).hexdigest()[:32]}-{name}"
        pages[page] = session
        pages.move_to_end(page)
        if len(pages) > MAX_OPEN_PAGES:
            self.drop_state(pages.popitem(last=False)[0])
        self.keep_state(page)
        return page

    def _close_session(self, session: str) -> None:
        self.files.close(session)
        for key, pages in list(self._pages.items()):
            for page in [page for page, other in list(pages.items()) if other == session]:
                pages.pop(page, None)
                self.drop_state(page)
            if not pages:
                self._pages.pop(key, None)


def _reject_constant(name: str) -> Any:
    raise ValueError(name)


def _readable_error(response: Response) -> Response:
    """In place of Gradio's errors, which contain Python values or ``null``."""
    try:
        message = json.loads(bytes(response.body)).get("error")
    except (ValueError, AttributeError):
        message = None
    if isinstance(message, str) and message.startswith("Value"):  # a choice or number that the form does not offer
        return EventError(422, "value_not_offered", VALUE_NOT_OFFERED).response()
    return EventError(500, "event_failed", EVENT_FAILED).response()


async def _read_body(receive: Receive) -> bytes:
    """Raises: EventError if the body is too large or does not arrive in time."""
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
    """The complete response of the application to ``body``. Further messages of the browser are passed on."""
    headers = MutableHeaders(raw=[pair for pair in scope["headers"] if pair[0] != b"accept-encoding"])
    headers["content-type"], headers["content-length"] = "application/json", str(len(body))
    if "transfer-encoding" in headers:
        del headers["transfer-encoding"]
    sent = False
    response, parts = Response(), bytearray()

    async def receive_body() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status_code = message["status"]
            response.raw_headers = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
        elif message["type"] == "http.response.body":
            parts.extend(message.get("body", b""))

    await app({**scope, "headers": headers.raw}, receive_body, collect)
    response.body = bytes(parts)
    response.raw_headers.append((b"content-length", str(len(parts)).encode()))
    return response
