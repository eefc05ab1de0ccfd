"""Events of the page may refer only to files that their own session uploaded, under the state of that session.

Gradio accepts every file reference in an event: a path on the server's disk, an address to fetch. This middleware
parses the event, rejects references to other files, and passes on what it has serialised itself, so that no reference
can be read in two ways.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.client import ApiError
from ui.security import RequestPlaces, read_body
from ui.session_files import SessionFiles, current_files
from ui.sessions import UserSession, own_session

EVENT_PATH = "/gradio_api/run/predict"
MAX_EVENT_BYTES = 4 * 2**20  # of one event: twice the largest spec that the service accepts
BODY_SECONDS = 30.0
MAX_CONCURRENT_EVENTS = 24  # of one key, of the 40 threads in which all events run
MAX_OPEN_PAGES = 64  # of one key whose state Gradio keeps
EVENT_FIELDS = ("event_data", "fn_index", "trigger_id")  # beside its data

FILE_NOT_OWNED = (
    "This file is not among those that you uploaded on this page, or it is no longer kept. Choose it again."
)
PAGE_CHANGED = "This page has changed since you opened it. Reload it, then try again."
EVENT_UNREADABLE = "The page could not read what was sent. Reload it, then try again."
VALUE_NOT_OFFERED = "One of the values is not among those that this form offers. Reload the page, then choose again."
EVENT_FAILED = "The page could not do this. Reload it, then try again; if it fails again, the page's log says why."


class EventFileMiddleware:
    """Checks each event of the page, and drops the states of pages that Gradio keeps for sessions that have ended."""

    def __init__(self, app: ASGIApp, files: SessionFiles, page: gr.Blocks) -> None:
        self.app = app
        self.files = files
        self.page = page
        self.events = {number for number, event in page.fns.items() if event.fn is not None}
        self._places = RequestPlaces(MAX_CONCURRENT_EVENTS)
        files.sessions.on_end.append(lambda session: self._drop_states("-".join(session.names)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != EVENT_PATH:
            await self.app(scope, receive, send)
            return
        try:
            async with self._places.taken():
                event = self._check_event(
                    own_session(), await read_body(Request(scope, receive), MAX_EVENT_BYTES, BODY_SECONDS)
                )
                current_files.set(self.files)
                await _call_app(self.app, scope, json.dumps(event).encode(), receive, send)
        except ApiError as error:  # before the response begins
            await _error_response(error)(scope, receive, send)

    def _check_event(self, session: UserSession, body: bytes) -> dict[str, Any]:
        """The event for Gradio. Raises: ApiError."""
        try:
            raw = json.loads(body, parse_constant=_reject_constant)
            if not isinstance(raw, dict) or not isinstance(raw.get("data"), list):
                raise ValueError
            if raw.get("fn_index") not in self.events:
                raise ApiError(404, "unknown_event", PAGE_CHANGED)
            event = {name: self._check_value(session, raw.get(name)) for name in EVENT_FIELDS}
            event["data"] = [self._check_value(session, value) for value in raw["data"]]
        except (ValueError, TypeError, RecursionError):  # TypeError: fn_index is a list
            raise ApiError(422, "event_unreadable", EVENT_UNREADABLE) from None
        if raw.get("session_hash") is not None:
            event["session_hash"] = self._page_name(session, raw["session_hash"])
        return event

    def _check_value(self, session: UserSession, value: Any) -> Any:
        """A copy in which every file reference has been checked, and is a path alone. Raises: ApiError."""
        if isinstance(value, list):
            return [self._check_value(session, part) for part in value]
        if not isinstance(value, dict):
            return value
        if not value.keys() & {"path", "url", "meta"}:
            return {name: self._check_value(session, part) for name, part in value.items()}
        path = value.get("path")
        file = self.files.find(session, path) if isinstance(path, str) else None
        if file is None:
            raise ApiError(422, "file_unknown", FILE_NOT_OWNED)
        return {"path": str(file), "meta": {"_type": "gradio.FileData"}}

    def _page_name(self, session: UserSession, name: Any) -> str:
        """Name of an open page for Gradio. Of too many of one key the least recently used one loses its state."""
        page = session.name_of(name)
        states = list(self.page.state_holder.session_data)  # least recently used first
        own = [state for state in states if state.startswith(session.names[0])]
        if page not in own and len(own) >= MAX_OPEN_PAGES:
            self._drop_states(own[0])
        return page

    def _drop_states(self, prefix: str) -> None:
        """Remove the states that Gradio keeps for open pages whose name begins like this."""
        holder = self.page.state_holder
        with holder.lock:
            for name in [name for name in holder.session_data if name.startswith(prefix)]:
                holder.session_data.pop(name, None)
                holder.time_last_used.pop(name, None)


def _reject_constant(name: str) -> Any:
    raise ValueError(name)


async def _call_app(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Answer with the application's response to ``body``, but with readable words in place of Gradio's errors."""
    sent = failed = False

    async def receive_body() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send_readable(message: Message) -> None:
        nonlocal failed
        if message["type"] == "http.response.start":
            failed = message["status"] >= 400
        if not failed:
            await send(message)
        elif message["type"] == "http.response.body":
            await _error_response(_readable_error(message["body"]))(scope, receive, send)

    headers = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]  # an error is read here
    await app({**scope, "headers": headers}, receive_body, send_readable)


def _error_response(error: ApiError) -> JSONResponse:
    """``code`` is for programs; Gradio's page shows the message."""
    return JSONResponse({"error": error.message, "code": error.code}, error.status)


def _readable_error(body: bytes) -> ApiError:
    """Gradio's errors contain Python values or ``null``."""
    try:
        message = json.loads(body).get("error")
    except (ValueError, AttributeError):
        message = None
    if isinstance(message, str) and message.startswith("Value"):  # a choice or number that the form does not offer
        return ApiError(422, "value_not_offered", VALUE_NOT_OFFERED)
    return ApiError(500, "event_failed", EVENT_FAILED)
