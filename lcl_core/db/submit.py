"""New runs: submission, idempotency keys, and runs that wait for the success of others.

A run names only predecessors that exist already, so dependencies never form a circle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from lcl_core.common.errors import UserError
from lcl_core.db.leases import transition
from lcl_core.db.models import CollectionAddition, Predecessor, Run, RunTag, Study, new_id
from lcl_core.db.session import now
from lcl_core.db.states import State
from lcl_core.jobs import JOBS
from lcl_core.specs.parsing import AnySpec, nodes_of, parse_spec, spec_hash

IdempotentRow = TypeVar("IdempotentRow", CollectionAddition, Run, Study)


def find_by_idempotency_key(
    session: Session, table: type[IdempotentRow], owner: str, key: str | None, body_hash: str
) -> IdempotentRow | None:
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


def hash_body(body: dict[str, Any]) -> str:
    """By which a repeated request is known."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


_UNSUCCESSFUL = (State.FAILED.value, State.CANCELLED.value)


def check_predecessors(session: Session, after: Sequence[str], sight: str | None = None) -> bool:
    """Whether all of them have succeeded already. ``sight``: whose runs may be named; None: everybody's.

    Raises: UserError ``unknown_predecessor`` or ``predecessor_failed``, naming the place in the list.
    """
    if not after:
        return True
    query = select(Run.id, Run.state).where(Run.id.in_(after))
    if sight is not None:
        query = query.where(Run.owner == sight)
    found = dict(session.execute(query).tuples().all())
    for at, run_id in enumerate(after):
        if run_id not in found:
            message = f"there is no run {run_id!r} to come after; submit that one first"
            raise UserError(message, code="unknown_predecessor", field=f"after.{at}")
        if found[run_id] in _UNSUCCESSFUL:
            message = f"run {run_id} is {found[run_id]}; resume it first, or leave it out"
            raise UserError(message, code="predecessor_failed", field=f"after.{at}")
    return all(state == State.SUCCEEDED for state in found.values())


def has_releasable(session: Session) -> bool:
    """Whether ``release`` would find something; only reads."""
    return session.scalars(select(Run.id).where(_releasable()).limit(1)).first() is not None


def release_dependents(session: Session) -> list[str]:
    """Queue the runs whose predecessors have all succeeded, and cancel those of which one has not.

    May be done at any time, by any number at once. Returns: ids of the runs that are queued now.
    """
    queued: list[str] = []
    moment = now(session)
    while found := list(session.scalars(_releasable_runs())):  # what is cancelled may be what others wait for
        for run in found:
            lost = _unsuccessful_predecessor(session, run.id)
            if lost is None:
                transition(run, State.QUEUED, ready_at=moment)
                queued.append(run.id)
            else:
                transition(run, State.CANCELLED, finished_at=moment, reason=_predecessor_reason(lost))
        session.flush()
    return queued


def _releasable() -> ColumnElement[bool]:
    """Of a waiting run: a predecessor was lost, or none is unfinished."""
    other = aliased(Run)
    of_it = select(Predecessor.run_id).join(other, other.id == Predecessor.after_id)
    lost = of_it.where(other.state.in_(_UNSUCCESSFUL))
    unfinished = of_it.where(other.state != State.SUCCEEDED.value)
    return and_(Run.state == State.WAITING.value, or_(Run.id.in_(lost), Run.id.not_in(unfinished)))


def _releasable_runs() -> Select[Run]:
    due = select(Run).where(_releasable()).order_by(Run.id)
    return due.with_for_update(of=Run, skip_locked=True).execution_options(populate_existing=True)


def _unsuccessful_predecessor(session: Session, run_id: str) -> Run | None:
    query = (
        select(Run)
        .join(Predecessor, Predecessor.after_id == Run.id)
        .where(Predecessor.run_id == run_id, Run.state.in_(_UNSUCCESSFUL))
        .order_by(Run.id)
    )
    return session.scalars(query.limit(1)).first()


def _predecessor_reason(lost: Run) -> dict[str, str]:
    why = (lost.reason or {}).get("message")
    told = f"run {lost.id}, which this one comes after, {'failed' if lost.state == State.FAILED else 'was cancelled'}"
    told += f": {why}" if why else ""
    return {"code": "predecessor_failed", "message": f"{told}; resume that one, then this one", "run": lost.id}


DEFAULT_MAX_ATTEMPTS = 3  # workers that may be lost before a run counts as failed


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
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
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
    body_hash = hash_body(body | _optional_fields(after, max_attempts, resource))
    if repeated := find_by_idempotency_key(session, Run, owner, idempotency_key, body_hash):
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
        resource=resource or JOBS[kind].resource,
        nodes=nodes_of(spec),
        **dict.fromkeys(("created_at", "queued_at", "ready_at"), moment),
        study_id=study_id,
        continues=continues,
        tag_rows=[RunTag(tag=tag, owner=owner) for tag in tags],
        after_rows=[Predecessor(after_id=run_id) for run_id in after],
    )
    return _insert(session, run)


def _optional_fields(after: Sequence[str], max_attempts: int, resource: str | None) -> dict[str, Any]:
    """What is not said is left out, so that requests of before there was such a thing keep their hash."""
    chosen: dict[str, Any] = {"max_attempts": max_attempts} if max_attempts != DEFAULT_MAX_ATTEMPTS else {}
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
        repeated = find_by_idempotency_key(session, Run, run.owner, run.idempotency_key, run.body_hash)
        if repeated is None:
            raise
        return repeated
    return run
