"""What routes ask for: the context, a session, and who is calling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from api import keys
from api.context import Context
from api.errors import Problem
from lcl_core.runs import store
from lcl_core.runs.tables import ApiKey

CHALLENGE = {"www-authenticate": "Bearer"}
# What belongs to an owner, by the name that every route gives its id in the path.
OWNED: dict[str, Callable[..., object]] = {"run_id": store.get_run, "study_id": store.get_study}


async def get_context(request: Request) -> Context:  # not worth the way to a thread and back
    return request.app.state.context


ContextDep = Annotated[Context, Depends(get_context)]


async def get_session(context: ContextDep, request: Request, response: Response) -> AsyncIterator[Session]:
    """A transaction that writes, and with it who asked for what: kept together or not at all."""
    async with context.writers, _left_in_a_thread(_noting(context, request, response)) as session:
        yield session


async def get_reader(context: ContextDep) -> AsyncIterator[Session]:
    async with _left_in_a_thread(context.database.reading()) as session:
        yield session


@contextmanager
def _noting(context: Context, request: Request, response: Response) -> Iterator[Session]:
    with context.database.session() as session:
        yield session
        _note(session, request, response)


@asynccontextmanager
async def _left_in_a_thread(sessions: AbstractContextManager[Session]) -> AsyncIterator[Session]:
    """A session entered at once, since that asks nothing of the database, and left where waiting holds up nobody.

    Its end needs no place among the framework's threads: all may be taken by others that wait for just this end.
    """
    own = CapacityLimiter(1)
    session = sessions.__enter__()
    try:
        yield session
    except BaseException as error:
        if not await to_thread.run_sync(sessions.__exit__, type(error), error, error.__traceback__, limiter=own):
            raise
    else:
        await to_thread.run_sync(sessions.__exit__, None, None, None, limiter=own)


# Scope "function": committed before the answer leaves, so that whoever got a 202 finds the row.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReaderDep = Annotated[Session, Depends(get_reader, scope="function")]


@dataclass(frozen=True)
class Caller:
    """Whose key came with the request."""

    owner: str
    role: str
    prefix: str

    @property
    def sees(self) -> str | None:
        """Whose runs and studies: its owner's; None: everybody's, which is an admin's sight."""
        return None if self.role == "admin" else self.owner


_bearer = HTTPBearer(auto_error=False, description="an API key: `Authorization: Bearer KEY`")


def current_key(context: ContextDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """Raises: Problem 401."""
    if given is None:
        raise Problem(
            401,
            "unauthorized",
            "send an API key: `Authorization: Bearer KEY`; the embedded default keeps one in "
            "the file `key` of its home folder",
            headers=CHALLENGE,
        )
    with context.database.reading() as session:
        row = keys.find(session, given.credentials)
    if row is None:
        raise Problem(401, "unauthorized", "the API key is unknown, revoked or expired", headers=CHALLENGE)
    if keys.needs_touch(row):
        _touch(context, row.prefix)
    return Caller(row.owner, row.role, row.prefix)


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
