"""New runs, and the same run for the same request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.database import now
from lcl_core.runs.ids import new_id
from lcl_core.runs.states import State
from lcl_core.runs.tables import Run, RunTag
from lcl_core.specs import AnySpec, parse_spec

ATTEMPTS = 3  # workers that may be lost before a run counts as failed


def submit(
    session: Session,
    kind: str,
    spec: AnySpec | dict[str, Any],
    name: str | None = None,
    tags: Sequence[str] = (),
    owner: str = "local",
    idempotency_key: str | None = None,
    *,
    priority: int = 0,
    max_attempts: int = ATTEMPTS,
) -> Run:
    """Queue a run, or return the one that this owner's ``idempotency_key`` already made.

    The caller commits, then rings the doorbell.

    Raises:
        UserError: ``unknown_kind``, ``bad_spec``; ``idempotency_conflict``: the key came with another body.
    """
    full = (parse_spec(kind, spec) if isinstance(spec, dict) else spec).model_dump(mode="json")
    tags = sorted(set(tags))
    body_hash = _hash({"kind": kind, "spec": full, "name": name, "tags": tags, "priority": priority})
    if idempotency_key is not None:
        earlier = _earlier(session, owner, idempotency_key, body_hash)
        if earlier is not None:
            return earlier
    moment = now(session)
    run = Run(
        id=new_id("run"),
        kind=kind,
        name=name,
        spec=full,
        owner=owner,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
        state=State.QUEUED.value,
        priority=priority,
        max_attempts=max_attempts,
        created_at=moment,
        queued_at=moment,
        tag_rows=[RunTag(tag=tag) for tag in tags],
    )
    return _insert(session, run)


def _insert(session: Session, run: Run) -> Run:
    """Insert in a savepoint: another process may have used the same key since we looked."""
    try:
        with session.begin_nested():
            session.add(run)
            session.flush()
    except IntegrityError:
        if run.idempotency_key is None:
            raise
        earlier = _earlier(session, run.owner, run.idempotency_key, run.body_hash)
        if earlier is None:
            raise
        return earlier
    return run


def _earlier(session: Session, owner: str, key: str, body_hash: str) -> Run | None:
    run = session.scalars(select(Run).where(Run.owner == owner, Run.idempotency_key == key)).one_or_none()
    if run is not None and run.body_hash != body_hash:
        raise UserError(
            f"Idempotency-Key {key!r} was used before with another body, for run {run.id}; use a new key",
            code="idempotency_conflict",
        )
    return run


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
