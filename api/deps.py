"""Dependencies of routes: application state, database sessions, and the authenticated principal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from api.core import auth
from api.core.auth import Principal
from api.core.errors import Problem
from api.core.rate_limit import RequestSlot
from api.core.session import RequestSession, finish
from api.core.state import AppState
from lcl_core.db import audit, runs, studies

# What belongs to an owner, by the name that every route gives its id in the path.
OWNED: dict[str, Callable[..., object]] = {"run_id": runs.get_run, "study_id": studies.get_study}


async def get_state(request: Request) -> AppState:  # not worth the way to a thread and back
    return request.app.state.context


StateDep = Annotated[AppState, Depends(get_state)]


WriteTransaction = Callable[[], AbstractAsyncContextManager[Session]]


async def get_write_transaction(context: StateDep, request: Request, response: Response) -> WriteTransaction:
    """How a route begins a transaction that writes, once it has all that it will write; kept at the block's end.

    With it is kept who asked for what: together or not at all. For a route that does long work before.
    """
    note = partial(_record_audit, request=request, response=response)

    @asynccontextmanager
    async def writing() -> AsyncIterator[Session]:
        async with (
            context.writers,
            _finished(RequestSession(context.database.writer, context.writing, note)) as session,
        ):
            yield session

    return writing


WriteTransactionDep = Annotated[WriteTransaction, Depends(get_write_transaction)]


async def get_write_session(writing: WriteTransactionDep) -> AsyncIterator[Session]:
    """The same for the time of the whole route."""
    async with writing() as session:
        yield session


async def get_read_session(context: StateDep) -> AsyncIterator[Session]:
    async with _finished(RequestSession(context.database.engine, context.reading, None)) as session:
        yield session


@asynccontextmanager
async def _finished(session: RequestSession) -> AsyncIterator[Session]:
    try:
        yield session
    except BaseException:
        await finish(session, session.rollback_and_close)
        raise
    await finish(session, session.commit_and_close)


# Scope "function": committed before the answer leaves, so that whoever got a 202 finds the row.
WriteSessionDep = Annotated[Session, Depends(get_write_session, scope="function")]
ReadSessionDep = Annotated[Session, Depends(get_read_session, scope="function")]


_bearer = HTTPBearer(auto_error=False, description="an API key: `Authorization: Bearer KEY`")


async def current_principal(request: Request, _described: Annotated[object, Depends(_bearer)]) -> Principal:
    """Whom ``api.core.request_bodies`` found before the body was read. Of a stream the slot counts as one from here on.

    Raises: whatever kept the request from going on: Problem 401 or 429, SQLAlchemyError.
    """
    if (refusal := getattr(request.state, "refusal", None)) is not None:
        raise refusal
    slot: RequestSlot = request.state.slot
    if request.scope["route"].response_class is EventSourceResponse:
        slot.become_stream()
    return slot.principal


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]


def require(role: str) -> Callable[..., Awaitable[Principal]]:
    """A dependency that lets only ``role`` and higher ones pass, to what they may see.

    Every route with a key stands on it, so none can forget whose a run or study is.
    """

    async def allowed(caller: CurrentPrincipal, request: Request, context: StateDep) -> Principal:
        if auth.role_level(caller.role) < auth.role_level(role):
            raise Problem(403, "forbidden", f"this needs a key with the role {role}; yours is {caller.role}")
        if caller.visible_owner is not None and OWNED.keys() & request.path_params.keys():
            await to_thread.run_sync(check_visible, context, caller, request.path_params)
        return caller

    return allowed


Viewer = Annotated[Principal, Depends(require("viewer"))]
Submitter = Annotated[Principal, Depends(require("submitter"))]
Admin = Annotated[Principal, Depends(require("admin"))]


def check_visible(context: AppState, caller: Principal, named: Mapping[str, Any]) -> None:
    """Raises: UserError ``unknown_run`` or ``unknown_study`` (404), in the words for one that is not there."""
    owned = [(look_up, named[name]) for name, look_up in OWNED.items() if name in named]
    if caller.visible_owner is None or not owned:
        return
    with context.database.reading() as session:
        for look_up, object_id in owned:
            look_up(session, object_id, owner=caller.visible_owner)


def _record_audit(session: Session, request: Request, response: Response) -> None:
    """The object is what the answer's Location names, else what the request's path does."""
    route, caller = request.scope["route"], request.state.slot.principal
    made = response.headers.get("location", "").rpartition("/")[2]
    object_id = made or next(iter(request.path_params.values()), "")
    action = f"{route.tags[0]}.{route.name.rstrip('_')}"
    audit.record_action(session, caller.owner, caller.prefix, action, object_id, request.state.request_id)
