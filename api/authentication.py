"""Whose key a request carries. Answered from its headers alone, before anything of its body is read."""

from __future__ import annotations

import structlog
from anyio import to_thread
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.exc import SQLAlchemyError

from api import keys
from api.callers import Caller
from api.context import Context
from api.errors import Problem
from lcl_core.runs.tables import ApiKey

log = structlog.get_logger(__name__)

CHALLENGE = {"www-authenticate": "Bearer"}


async def authenticate(context: Context, authorization: str | None) -> Caller:
    """The caller whom the value of an ``Authorization`` header names.

    A key that was valid within the last second costs no look into the database; any other costs one, in one of few
    threads, so that strangers with made-up keys do not take those of the requests.

    Raises: Problem 401; SQLAlchemyError when the database does not answer.
    """
    scheme, key = get_authorization_scheme_param(authorization)
    if scheme.lower() != "bearer" or not key:
        raise Problem(
            401,
            "unauthorized",
            "send an API key: `Authorization: Bearer KEY`; the embedded default keeps one in "
            "the file `key` of its home folder",
            headers=CHALLENGE,
        )
    if known := context.callers.known(key, keys.clock()):
        return known
    return await to_thread.run_sync(_look_up, context, key, limiter=context.authenticating)


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


def _touch(context: Context, prefix: str) -> None:
    """Note the use of a key. A database that takes no writes, such as on a full disk, still answers questions."""
    try:
        with context.database.session() as session:
            row = session.get(ApiKey, prefix)
            if row is not None:
                keys.touch(row)
    except SQLAlchemyError as error:
        log.warning("the last use of a key was not noted", prefix=prefix, error=str(error).splitlines()[0])
