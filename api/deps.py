"""What routes ask for: the context, a session, and who is calling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api import keys
from api.context import Context
from api.errors import Problem
from lcl_core.runs.tables import ApiKey

CHALLENGE = {"www-authenticate": "Bearer"}


def get_context(request: Request) -> Context:
    return request.app.state.context


ContextDep = Annotated[Context, Depends(get_context)]


def get_session(context: ContextDep) -> Iterator[Session]:
    with context.database.session() as session:
        yield session


def get_reader(context: ContextDep) -> Iterator[Session]:
    with context.database.reading() as session:
        yield session


# Scope "function": committed before the answer leaves, so that whoever got a 202 finds the row.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReaderDep = Annotated[Session, Depends(get_reader, scope="function")]


@dataclass(frozen=True)
class Caller:
    """Whose key came with the request."""

    owner: str
    role: str
    prefix: str


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


CurrentKey = Annotated[Caller, Depends(current_key)]


def require(role: str) -> Callable[[CurrentKey], Caller]:
    """A dependency that lets only ``role`` and higher ones pass."""

    def allowed(caller: CurrentKey) -> Caller:
        if keys.rank(caller.role) < keys.rank(role):
            raise Problem(403, "forbidden", f"this needs a key with the role {role}; yours is {caller.role}")
        return caller

    return allowed


Viewer = Annotated[Caller, Depends(require("viewer"))]
Submitter = Annotated[Caller, Depends(require("submitter"))]
Admin = Annotated[Caller, Depends(require("admin"))]


def _touch(context: Context, prefix: str) -> None:
    with context.database.session() as session:
        row = session.get(ApiKey, prefix)
        if row is not None:
            row.last_used = keys.clock()
