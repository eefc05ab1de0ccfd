"""New runs, and the same run for the same request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lcl_core.kinds import RESOURCE_CLASS
from lcl_core.runs.database import now
from lcl_core.runs.ids import new_id
from lcl_core.runs.predecessors import check_predecessors
from lcl_core.runs.repeats import earlier, hash_of
from lcl_core.runs.states import State
from lcl_core.runs.tables import Predecessor, Run, RunTag
from lcl_core.specs import AnySpec, nodes_of, parse_spec, spec_hash

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
    resource: str | None = None,
    study_id: str | None = None,
    continues: str | None = None,
    after: Sequence[str] = (),
    sight: str | None = None,
) -> Run:
    """Queue a run, or return the one that this owner's ``idempotency_key`` already made.

    The caller commits, then rings the doorbell.

    Args:
        resource: ``cpu`` or ``gpu``; None: what its kind needs.
        study_id: the study that the run is submitted for.
        after: runs whose success it waits for, of the owner ``sight`` (None: of anybody).
        continues: a run that the new one goes on from, its checkpoint being what a run of this spec comes through.

    Raises:
        UserError: ``unknown_kind``, ``bad_spec``, ``unknown_predecessor``, ``predecessor_failed``;
            ``idempotency_conflict``: the key came with another body.
    """
    spec = parse_spec(kind, spec) if isinstance(spec, dict) else spec
    full = spec.model_dump(mode="json")
    tags, after = sorted(set(tags)), list(dict.fromkeys(after))
    body = {"kind": kind, "spec": full, "name": name, "tags": tags, "priority": priority}
    body_hash = hash_of(body | _unusual(after, max_attempts, resource))
    if repeated := earlier(session, Run, owner, idempotency_key, body_hash):
        return repeated
    moment, ready = now(session), check_predecessors(session, after, sight)
    run = Run(
        id=new_id("run"),
        kind=kind,
        name=name,
        spec=full,
        spec_hash=spec_hash(kind, spec),
        owner=owner,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
        state=(State.QUEUED if ready else State.WAITING).value,
        priority=priority,
        max_attempts=max_attempts,
        resource=resource or RESOURCE_CLASS[kind],
        nodes=nodes_of(spec),
        **dict.fromkeys(("created_at", "queued_at", "ready_at"), moment),
        study_id=study_id,
        continues=continues,
        tag_rows=[RunTag(tag=tag, owner=owner) for tag in tags],
        after_rows=[Predecessor(after_id=run_id) for run_id in after],
    )
    return _insert(session, run)


def _unusual(after: Sequence[str], max_attempts: int, resource: str | None) -> dict[str, Any]:
    """What is not said is left out, so that requests of before there was such a thing keep their hash."""
    chosen: dict[str, Any] = {"max_attempts": max_attempts} if max_attempts != ATTEMPTS else {}
    chosen |= {"resource": resource} if resource else {}
    return {"after": list(after), **chosen} if after else chosen


def _insert(session: Session, run: Run) -> Run:
    """Insert; with a key in a savepoint: another process may have used the same one since we looked."""
    if run.idempotency_key is None:
        session.add(run)
        session.flush()
        return run
    try:
        with session.begin_nested():
            session.add(run)
            session.flush()
    except IntegrityError:
        repeated = earlier(session, Run, run.owner, run.idempotency_key, run.body_hash)
        if repeated is None:
            raise
        return repeated
    return run
