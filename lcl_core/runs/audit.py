"""Who did what: noted in the transaction of the change itself, and read newest first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.audit_tables import AuditEntry
from lcl_core.runs.database import moment_of

AUDIT_LIMIT = 200


@dataclass(frozen=True)
class AuditPage:
    """``items`` newest first; ``next_cursor`` asks for the page after, None when there is none."""

    items: list[AuditEntry]
    next_cursor: str | None


def note_action(session: Session, owner: str, prefix: str, action: str, object_id: str, request_id: str = "") -> None:
    """Add an entry, which is kept if what the session does besides is kept.

    Args:
        owner: of the key that asked; ``prefix``: that key's.
        action: resource and verb, such as ``runs.cancel``.
        object_id: id or name of what was changed.
    """
    session.add(
        AuditEntry(
            at=moment_of(session),
            owner=owner,
            prefix=prefix,
            action=action,
            object=object_id[:200],
            request_id=request_id,
        )
    )


def list_audit(
    session: Session,
    *,
    owner: str | None = None,
    action: str | None = None,
    object_id: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> AuditPage:
    """A page of entries. Raises: UserError ``bad_cursor`` or ``bad_limit``."""
    if not 1 <= limit <= AUDIT_LIMIT:
        raise UserError(f"limit must be 1 to {AUDIT_LIMIT} (got {limit})", code="bad_limit", field="limit")
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(AuditEntry.id < _number(cursor))
    wanted = ((AuditEntry.owner, owner), (AuditEntry.action, action), (AuditEntry.object, object_id))
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    found = list(session.scalars(query))
    items = found[:limit]
    return AuditPage(items, str(items[-1].id) if len(found) > limit else None)


def _number(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise UserError("cursor is not one that a page gave", code="bad_cursor", field="cursor")
    return int(cursor)
