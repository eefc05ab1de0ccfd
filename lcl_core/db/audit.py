"""Audit log: one entry a change, written in the transaction of the change, read newest first."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.db.models import AuditEntry
from lcl_core.db.session import CursorPage, now, read_page


def record_action(session: Session, owner: str, prefix: str, action: str, object_id: str, request_id: str = "") -> None:
    """Add an entry to the caller's transaction; its fields are those of ``AuditEntry``."""
    fields = {"owner": owner, "prefix": prefix, "action": action, "request_id": request_id}
    session.add(AuditEntry(at=now(session), object=object_id[:200], **fields))


def list_audit(
    session: Session,
    *,
    owner: str | None = None,
    action: str | None = None,
    object_id: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> CursorPage[AuditEntry]:
    """A page of entries, newest first."""
    query = select(AuditEntry)
    for column, value in ((AuditEntry.owner, owner), (AuditEntry.action, action), (AuditEntry.object, object_id)):
        if value is not None:
            query = query.where(column == value)
    return read_page(session, query, AuditEntry.id, limit, cursor)
