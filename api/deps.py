"""What routes ask for: the context, a session, and who is calling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from api import keys
from api.callers import Caller
from api.context import Context
from api.errors import Problem
from api.transactions import RequestSession, end
from lcl_core.runs import store
from lcl_core.runs.tables import ApiKey

CHALLENGE = {"www-authenticate": "Bearer"}
# What belongs to an owner, by the name that every route gives its id in the path.
OWNED: dict[str, Callable[..., object]] = {"run_id": store.get_run, "study_id": store.get_study}


async def get_context(request: Request) -> Context:  # not worth the way to a thread and back
    return request.app.state.context


ContextDep = Annotated[Context, Depends(get_context)]


Writing = Callable[[], AbstractAsyncContextManager[Session]]


async def get_writing(context: ContextDep, request: Request, response: Response) -> Writing:
    """How a route begins a transaction that writes, once it has all that it will write; kept at the block's end.

    With it is kept who asked for what: together or not at all. For a route that does long work before.
    """
    note = partial(_note, request=request, response=response)

    @asynccontextmanager
    async def writing() -> AsyncIterator[Session]:
        async with context.writers, _ended(RequestSession(context.database.writer, context.writing, note)) as session:
            yield session

    return writing


WritingDep = Annotated[Writing, Depends(get_writing)]


async def get_session(writing: WritingDep) -> AsyncIterator[Session]:
    """The same for the time of the whole route."""
    async with writing() as session:
        yield session


async def get_reader(context: ContextDep) -> AsyncIterator[Session]:
    async with _ended(RequestSession(context.database.engine, context.reading, None)) as session:
        yield session


@asynccontextmanager
async def _ended(session: RequestSession) -> AsyncIterator[Session]:
    try:
        yield session
    except BaseException:
        await end(session, session.abandon)
        raise
    await end(session, session.settle)


# Scope "function": committed before the answer leaves, so that whoever got a 202 finds the row.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReaderDep = Annotated[Session, Depends(get_reader, scope="function")]


_bearer = HTTPBearer(auto_error=False, description="an API key: `Authorization: Bearer KEY`")


async def current_key(
    context: ContextDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Raises: Problem 401."""
    if given is None:
        raise Problem(
            401,
            "unauthorized",
            "send an API key: `Authorization: Bearer KEY`; the embedded default keeps one in "
            "the file `key` of its home folder",
            headers=CHALLENGE,
        )
    if known := context.callers.known(given.credentials, keys.clock()):
        return known
    return await to_thread.run_sync(_look_up, context, given.credentials)


def _look_up(context: Context, key: str) -> Caller:
    changes = context.callers.changes
    with context.database.reading() as session:
        row = keys.find(session, key, context.configured_key)
    if row is None:
        raise Problem(401, "unauthorized", "the API key is unknown, revoked or expired", headers=CHALLENGE)
    if keys.needs_touch(row):
        _touch(context, row.prefix)
    caller = Caller(row.owner, row.role, row.prefix)
    context.callers.note(key, caller, changes, keys.next_change(row))
    return caller


async def placed(
    caller: Annotated[Caller, Depends(current_key)], request: Request, context: ContextDep
) -> AsyncIterator[Caller]:
    """Hold one of the key's places until the answer is out. Raises: Problem 429."""
    stream = request.scope["route"].response_class is EventSourceResponse
    with context.throttle.place(caller.prefix, stream=stream):
        yield caller


CurrentKey = Annotated[Caller, Depends(placed)]


def require(role: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets only ``role`` and higher ones pass, to what they may see.

    Every route with a key stands on it, so none can forget whose a run or study is.
    """

    async def allowed(caller: CurrentKey, request: Request, context: ContextDep) -> Caller:
        if keys.rank(caller.role) < keys.rank(role):
            raise Problem(403, "forbidden", f"this needs a key with the role {role}; yours is {caller.role}")
        if caller.sees is not None and OWNED.keys() & request.path_params.keys():
            await to_thread.run_sync(check_sight, context, caller, request.path_params)
        request.state.caller = caller
        return caller

    return allowed


Viewer = Annotated[Caller, Depends(require("viewer"))]
Submitter = Annotated[Caller, Depends(require("submitter"))]
Admin = Annotated[Caller, Depends(require("admin"))]


def check_sight(context: Context, caller: Caller, named: Mapping[str, Any]) -> None:
    """Raises: UserError ``unknown_run`` or ``unknown_study`` (404), in the words for one that is not there."""
    owned = [(look_up, named[name]) for name, look_up in OWNED.items() if name in named]
    if caller.sees is None or not owned:
        return
    with context.database.reading() as session:
        for look_up, object_id in owned:
            look_up(session, object_id, owner=caller.sees)


def _note(session: Session, request: Request, response: Response) -> None:
    """The object is what the answer's Location names, else what the request's path does."""
    route, caller = request.scope["route"], request.state.caller
    made = response.headers.get("location", "").rpartition("/")[2]
    object_id = made or next(iter(request.path_params.values()), "")
    action = f"{route.tags[0]}.{route.name.rstrip('_')}"
    store.note_action(session, caller.owner, caller.prefix, action, object_id, request.state.request_id)


def _touch(context: Context, prefix: str) -> None:
    with context.database.session() as session:
        row = session.get(ApiKey, prefix)
        if row is not None:
            keys.touch(row)
