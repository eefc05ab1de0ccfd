"""The same answer for the same request: what an Idempotency-Key already made."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.tables import Addition, Run, Study

Made = TypeVar("Made", Addition, Run, Study)


def earlier(session: Session, table: type[Made], owner: str, key: str | None, body_hash: str) -> Made | None:
    """The row that this owner's ``key`` made before, if it did.

    Raises: UserError ``idempotency_conflict``: of another body.
    """
    if key is None:
        return None
    row = session.scalars(select(table).where(table.owner == owner, table.idempotency_key == key)).one_or_none()
    if row is not None and row.body_hash != body_hash:
        raise UserError(
            f"Idempotency-Key {key!r} was used before with another body, for {table.__tablename__} {row.id}; "
            "use a new key",
            code="idempotency_conflict",
        )
    return row


def hash_of(body: dict[str, Any]) -> str:
    """By which a repeated request is known."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
