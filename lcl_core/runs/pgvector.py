"""Whether this database can search vectors: PostgreSQL with the extension ``vector``, made when it is first needed."""

from __future__ import annotations

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from lcl_core.errors import UserError

OLDEST = (0, 8)  # the first whose search goes on until a filter has let enough pass
_LOCK = 0x6C636C766563  # any constant: names the advisory lock of those who make the extension


def require_pgvector(session: Session) -> None:
    """See to it that vectors can be kept, making the extension if it is not there.

    Raises: UserError ``pgvector_unavailable``.
    """
    if session.get_bind().dialect.name != "postgresql":
        raise _unavailable("this service keeps its database in SQLite; pgvector is an extension of PostgreSQL")
    found = _version(session) or _made(session)
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise _unavailable(f"the database has pgvector {found}, {wanted} is needed (ALTER EXTENSION vector UPDATE)")


def _version(session: Session) -> str | None:
    found: str | None = session.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    return found


def _made(session: Session) -> str:
    session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    try:
        with session.begin_nested():
            session.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        told = str(error.orig).partition("\n")[0]
        raise _unavailable(
            f"PostgreSQL cannot make the extension vector ({told}); install pgvector on its machine, or use the image "
            "pgvector/pgvector:pg17, and let an administrator of the database run CREATE EXTENSION vector"
        ) from error
    return str(_version(session))


def _unavailable(what: str) -> UserError:
    return UserError(f"{what}; or set index to files", code="pgvector_unavailable", field="index")
