"""Dependencies of routes: application state, database sessions, and the authenticated principal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from api.core.auth import Principal, role_level
from api.core.errors import Problem
from api.services.state import AppState
from lcl_core.db import audit
from lcl_core.db.models import Run, Study
from lcl_core.db.runs import find_owned

P = ParamSpec("P")
Result = TypeVar("Result")
WriteTransaction = Callable[[], AbstractContextManager[Session]]

# Objects that belong to an owner, by the name of their id in the path of every route.
OWNED: dict[str, Callable[[Session, str, str | None], Run | Study]] = {
    "run_id": lambda session, reference, owner: find_owned(session, Run, reference, owner),
    "study_id": lambda session, reference, owner: find_owned(session, Study, reference, owner),
}

RunId = Annotated[str, Path(description="id of the run, or its name where one run alone has it")]
StudyId = Annotated[str, Path(description="id of the study, or its name where one study alone has it")]
DatasetName = Annotated[str, Path(description="name of the dataset", examples=["sample"])]
EncoderReference = Annotated[
    str, Path(description="id of the encoder, or the newest of a name", examples=["drawings-v5"])
]
CollectionReference = Annotated[str, Path(description="id or name of the collection", examples=["sample-drawings"])]
ItemId = Annotated[str, Path(description="id of the item, as a search returns it")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="any text of your own: a repeated request with the same key and body changes nothing more",
    ),
]
Offset = Annotated[int, Query(ge=0, lt=2**53, description="items to skip")]
PageLimit = Annotated[int, Query(ge=1, le=200, description="greatest number of items")]
Cursor = Annotated[str | None, Query(max_length=100, description="next_cursor of the page before")]


async def get_state(request: Request) -> AppState:  # async: not worth a thread
    return request.app.state.context


StateDep = Annotated[AppState, Depends(get_state)]


def get_write_transaction(state: StateDep, request: Request, response: Response) -> WriteTransaction:
    """A context manager that begins a write transaction, for routes that do long work before they write.

    The audit entry is committed with it: both or neither.
    """

    @contextmanager
    def transaction() -> Iterator[Session]:
        with Session(state.database.writer, expire_on_commit=False) as session:  # a route may roll back and go on
            yield session
            route, principal = request.scope["route"], request.state.principal
            created = response.headers.get("location", "").rpartition("/")[2]
            # of the object in the response's Location, else in the request's path
            object_id = created or next(iter(request.path_params.values()), "")
            action = f"{route.tags[0]}.{request.path_params.get('action', route.name.rstrip('_'))}"
            audit.record_action(session, principal.owner, principal.prefix, action, object_id, request.state.request_id)
            session.commit()

    return transaction


WriteTransactionDep = Annotated[WriteTransaction, Depends(get_write_transaction)]


async def get_write_session(state: StateDep, transaction: WriteTransactionDep) -> AsyncIterator[Session]:
    """A write transaction that lasts as long as the route."""
    async with state.writers, contextmanager_in_threadpool(transaction()) as session:
        yield session


def get_read_session(state: StateDep) -> Iterator[Session]:
    with state.database.reading() as session:
        yield session


# Scope "function": committed before the response is sent, so that a client that got a 202 finds the row.
WriteSessionDep = Annotated[Session, Depends(get_write_session, scope="function")]
ReadSessionDep = Annotated[Session, Depends(get_read_session, scope="function")]


def in_thread_pool(name: str) -> Callable[[Callable[P, Result]], Callable[P, Awaitable[Result]]]:
    """Run an endpoint that has a ``state`` in the threads of that state's limiter ``name``, ``slow`` or ``comparing``.

    For slow endpoints, which would use up the framework's threads. The event loop serialises what such an endpoint
    returns: a large answer should be a finished ``Response``.
    """

    def decorate(endpoint: Callable[P, Result]) -> Callable[P, Awaitable[Result]]:
        @wraps(endpoint)
        async def in_pool(*args: P.args, **kwargs: P.kwargs) -> Result:
            limiter: CapacityLimiter = getattr(kwargs["state"], name)
            return await to_thread.run_sync(partial(endpoint, *args, **kwargs), limiter=limiter)

        return in_pool

    return decorate


_bearer = HTTPBearer(auto_error=False, description="an API key: `Authorization: Bearer KEY`")


async def current_principal(request: Request, _described: Annotated[object, Depends(_bearer)]) -> Principal:
    """The principal that ``api.core.middleware`` authenticated."""
    principal: Principal = request.state.principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]


def require(role: str) -> Callable[..., Awaitable[Principal]]:
    """A dependency that admits ``role`` and higher ones, and runs and studies only of a visible owner.

    Every route with a key depends on it, so that no route can omit the ownership check.
    """

    async def allowed(principal: CurrentPrincipal, request: Request, state: StateDep) -> Principal:
        if role_level(principal.role) < role_level(role):
            raise Problem(403, "forbidden", f"this needs a key with the role {role}; yours is {principal.role}")
        for name in OWNED.keys() & request.path_params.keys():
            found = await to_thread.run_sync(_find_id, state, principal, name, request.path_params[name])
            request.path_params[name] = found  # before the route's own parameters are read
        return principal

    return allowed


Viewer = Annotated[Principal, Depends(require("viewer"))]
Submitter = Annotated[Principal, Depends(require("submitter"))]
Admin = Annotated[Principal, Depends(require("admin"))]


def _find_id(state: AppState, principal: Principal, name: str, reference: str) -> str:
    """Id of the run or study that an id or a name refers to.

    Raises: UserError ``not_found`` (404), the same as for an object that does not exist;
        ``conflict`` (409).
    """
    with state.database.reading() as session:
        return OWNED[name](session, reference, principal.visible_owner).id
