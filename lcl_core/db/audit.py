"""Audit log: one entry a change, written in the transaction of the change, read newest first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.db.models import AuditEntry
from lcl_core.db.session import sql_now

AUDIT_LIMIT = 200


@dataclass(frozen=True)
class AuditPage:
    """``items`` newest first; ``next_cursor`` asks for the page after, None when there is none."""

    items: list[AuditEntry]
    next_cursor: str | None


def record_action(session: Session, owner: str, prefix: str, action: str, object_id: str, request_id: str = "") -> None:
    """Add an entry, which is kept if what the session does besides is kept.

    Args:
        owner: of the key that asked; ``prefix``: that key's.
        action: resource and verb, such as ``runs.cancel``.
        object_id: id or name of what was changed.
    """
    session.add(
        AuditEntry(
            at=sql_now(session),
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
        query = query.where(AuditEntry.id < _parse_cursor(cursor))
    wanted = ((AuditEntry.owner, owner), (AuditEntry.action, action), (AuditEntry.object, object_id))
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    found = list(session.scalars(query))
    items = found[:limit]
    return AuditPage(items, str(items[-1].id) if len(found) > limit else None)


def _parse_cursor(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise UserError("cursor is not one that a page gave", code="bad_cursor", field="cursor")
    return int(cursor)
