"""New runs: submission, idempotency keys, reuse of equal runs, and runs that wait for the success of others.

A run names only predecessors that exist already, so dependencies never form a circle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from lcl_core.common.errors import Conflict, UserError
from lcl_core.db.leases import transition
from lcl_core.db.models import Dataset, EncoderRow, Predecessor, Run, RunTag, Study, new_id
from lcl_core.db.registry import pin_encoders
from lcl_core.db.session import now
from lcl_core.db.states import State
from lcl_core.db.workers import ENGINES_NEEDED, live_workers
from lcl_core.jobs import JOBS
from lcl_core.specs.parsing import (
    AnySpec,
    gpus_of,
    nodes_of,
    parse_spec,
    spec_hash,
)
from lcl_core.specs.pretrain import PretrainSpec

DEFAULT_MAX_ATTEMPTS = 3  # workers that may be lost before a run fails
RELEASED_AT_ONCE = 200  # dependents in one transaction
# best first; a run that a user has paused is not trained a second time: the study waits for it
REUSABLE_STATES = tuple(
    state.value for state in (State.SUCCEEDED, State.RUNNING, State.QUEUED, State.WAITING, State.PAUSING, State.PAUSED)
)
_UNSUCCESSFUL = (State.FAILED.value, State.CANCELLED.value)

IdempotentRow = TypeVar("IdempotentRow", Run, Study)


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
    gpus: int | None = None,
    study_id: str | None = None,
    after: Sequence[str] = (),
    visible_to: str | None = None,
    body_hash: str | None = None,
) -> Run:
    """Queue a run, or return the one that the ``idempotency_key`` created; the caller commits, then wakes workers.

    Args:
        resource: ``cpu`` or ``gpu``; None: ``gpu`` if ``gpus`` is given, else the default of the kind.
        gpus: that each worker of the run leases to it; None: what the spec needs where the run gets a GPU.
        after: ids of runs whose success the run waits for.
        visible_to: owner whose runs ``after`` and ``spec.branch`` may name; None: all owners.
        body_hash: of the request; None: that of these arguments.
    """
    spec = parse_spec(kind, spec) if isinstance(spec, dict) else spec
    requirements = resolve_requirements(kind, spec, resource, gpus)
    nodes = requirements["nodes"]
    workers = live_workers(session, now(session)) if nodes > 1 else []
    if workers and not any(worker.has_engine for worker in workers):
        message = f"engine.nodes: {ENGINES_NEEDED} (got {nodes}); set engine.nodes to 1"
        raise UserError(message, code="no_engine", field="engine.nodes")
    if body_hash is None:
        body = {"kind": kind, "spec": spec.model_dump(mode="json"), "name": name, "tags": sorted(set(tags))}
        limits = {"priority": priority, "max_attempts": max_attempts, "resource": resource, "gpus": gpus}
        body_hash = hash_body({**body, **limits, "after": list(after)})
    spec = pin_encoders(session, spec)  # after the hash, which does not change with what a name refers to
    check_branch(session, spec, visible_to)
    moment, ready = now(session), check_predecessors(session, after, visible_to)
    run = Run(
        id=new_id("run"),
        kind=kind,
        name=name,
        spec=spec.model_dump(mode="json"),
        spec_hash=spec_hash(kind, spec),
        owner=owner,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
        state=(State.QUEUED if ready else State.WAITING).value,
        priority=priority,
        max_attempts=max_attempts,
        **requirements,
        **dict.fromkeys(("created_at", "queued_at", "ready_at"), moment),
        study_id=study_id,
        tag_rows=[RunTag(tag=tag, owner=owner) for tag in sorted(set(tags))],
        after_rows=[Predecessor(after_id=run_id) for run_id in dict.fromkeys(after)],
    )
    try:
        with session.begin_nested():  # another process may have inserted the same key meanwhile
            session.add(run)
            session.flush()
    except IntegrityError:
        repeated = find_by_idempotency_key(session, Run, owner, idempotency_key, body_hash)
        if repeated is None:
            raise
        return repeated
    return run


def check_branch(session: Session, spec: AnySpec, visible_to: str | None) -> None:
    """Check the run from whose milestone the spec starts, if any, which ``visible_to`` must own (None: anyone)."""
    branch = spec.branch if isinstance(spec, PretrainSpec) else None
    if branch is None:
        return
    trunk = session.get(Run, branch.run)
    if trunk is None or trunk.kind != "pretrain" or visible_to not in (None, trunk.owner):
        message = f"branch.run: there is no pre-training {branch.run!r} to start from"
        raise UserError(message, field="branch.run")
    if branch.step > trunk.spec["steps"]:
        message = f"branch.step: run {branch.run} has {trunk.spec['steps']} steps, fewer than {branch.step}"
        raise UserError(message, field="branch.step")


def resolve_requirements(kind: str, spec: AnySpec, resource: str | None, gpus: int | None) -> dict[str, Any]:
    """Columns of a run: its resource class, its nodes, and the GPUs of each node where it runs on GPUs."""
    used, needed = gpus_of(spec), resource or ("gpu" if gpus else JOBS[kind].resource)
    if gpus is None:
        return {"resource": needed, "nodes": nodes_of(spec), "gpus": 0 if needed == "cpu" else used}
    if resource == "cpu" or (resource is None and JOBS[kind].resource == "cpu"):
        why = "resource is cpu" if resource else f"a run of kind {kind} uses none"
        message = f"{why}; leave gpus out, or submit it with resource gpu"
    elif gpus == used:
        return {"resource": needed, "nodes": nodes_of(spec), "gpus": used}
    elif isinstance(spec, PretrainSpec):
        message = (
            f"engine.processes is {used}, and each process uses one GPU of its machine; "
            f"set engine.processes to {gpus}, or gpus to {used}"
        )
    else:
        message = f"a run of kind {kind} uses one GPU; set gpus to 1, or leave it out"
    raise UserError(f"gpus: {message} (got {gpus})", field="gpus")


def find_by_idempotency_key(
    session: Session, table: type[IdempotentRow], owner: str, key: str | None, body_hash: str
) -> IdempotentRow | None:
    """The row that the owner's ``key`` created; None: the key is new."""
    if key is None:
        return None
    row = session.scalars(select(table).where(table.owner == owner, table.idempotency_key == key)).one_or_none()
    if row is not None and row.body_hash != body_hash:
        raise Conflict(
            f"Idempotency-Key {key!r} was used before with another body, for {table.__tablename__} {row.id}; "
            "use a new key",
        )
    return row


def hash_body(body: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a request."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # the checks that refuse come later


def check_predecessors(session: Session, after: Sequence[str], visible_to: str | None = None) -> bool:
    """Whether all runs of ``after`` have succeeded."""
    if not after:
        return True
    query = select(Run.id, Run.state).where(Run.id.in_(after))
    if visible_to is not None:
        query = query.where(Run.owner == visible_to)
    states = dict(session.execute(query).tuples().all())
    for index, run_id in enumerate(after):
        if run_id not in states:
            message = f"there is no run {run_id!r} to come after; submit that one first"
            raise UserError(message, field=f"after.{index}")
        if states[run_id] in _UNSUCCESSFUL:
            message = f"run {run_id} is {states[run_id]}; resume it first, or leave it out"
            raise UserError(message, code="predecessor_failed", field=f"after.{index}")
    return all(state == State.SUCCEEDED for state in states.values())


def has_releasable(session: Session) -> bool:
    """Whether ``release_dependents`` would find a run; only reads."""
    return session.scalars(select(Run.id).where(_releasable()).limit(1)).first() is not None


def release_dependents(session: Session) -> tuple[list[str], bool]:
    """Queue waiting runs whose predecessors have all succeeded; cancel those with a failed or cancelled predecessor.

    ``RELEASED_AT_ONCE`` runs at most, so that the transaction is short. Several processes may call it at any time.

    Returns: ids of the runs that are queued now, and whether it is to be called again, in another transaction.
    """
    queued: list[str] = []
    moment, left = now(session), RELEASED_AT_ONCE
    query = select(Run).where(_releasable()).order_by(Run.id).with_for_update(of=Run, skip_locked=True)
    query = query.execution_options(populate_existing=True)
    # other runs may wait for a run that is cancelled here
    while left and (runs := session.scalars(query.limit(left)).all()):
        left -= len(runs)
        for run in runs:
            failed = Run.id.in_(run.after), Run.state.in_(_UNSUCCESSFUL)
            predecessor = session.scalars(select(Run).where(*failed).order_by(Run.id).limit(1)).first()
            if predecessor is None:
                transition(run, State.QUEUED, ready_at=moment)
                queued.append(run.id)
            else:
                cause = (predecessor.reason or {}).get("message")
                end = f"failed: {cause}" if predecessor.state == State.FAILED else "was cancelled"
                message = f"run {predecessor.id}, which this one comes after, {end}; resume that one, then this one"
                reason = {"code": "predecessor_failed", "message": message, "run": predecessor.id}
                transition(run, State.CANCELLED, finished_at=moment, reason=reason)
        session.flush()
    return queued, left == 0


def _releasable() -> ColumnElement[bool]:
    """Condition on a run: it waits, and a predecessor has failed or been cancelled, or all have succeeded."""
    after = aliased(Run)

    def has_predecessor(condition: ColumnElement[bool]) -> ColumnElement[bool]:
        # of each waiting run, so that the dependencies and runs of the past are not read
        found = select(after.id).where(after.id == Predecessor.after_id, condition).exists()
        return select(Predecessor.run_id).where(Predecessor.run_id == Run.id, found).exists()

    failed = has_predecessor(after.state.in_(_UNSUCCESSFUL))
    not_succeeded = has_predecessor(after.state != State.SUCCEEDED.value)
    return and_(Run.state == State.WAITING.value, or_(failed, ~not_succeeded))


def find_reusable_runs(session: Session, kind: str, specs: Iterable[AnySpec], owner: str) -> dict[str, Run]:
    """{spec hash: a run of that spec on the same data that has succeeded or may succeed}.

    Only runs of ``owner``: a guessed spec must not reveal the results of another owner. A pre-training whose encoder
    has been deleted leaves nothing to evaluate, so it is run again.
    """
    wanted = {spec_hash(kind, spec): spec for spec in specs}
    query = select(Run).where(
        Run.kind == kind, Run.spec_hash.in_(wanted), Run.state.in_(REUSABLE_STATES), Run.owner == owner
    )
    if kind == "pretrain":
        has_encoder = select(EncoderRow.id).where(EncoderRow.id == Run.encoder_id).exists()
        query = query.where(or_(Run.state != State.SUCCEEDED.value, has_encoder))
    content_hashes = dict(session.execute(select(Dataset.name, Dataset.content_hash)).tuples().all())
    runs: dict[str, Run] = {}
    for run in sorted(session.scalars(query.order_by(Run.id)), key=lambda run: REUSABLE_STATES.index(run.state)):
        if _has_same_inputs(run, wanted[run.spec_hash], content_hashes):
            runs.setdefault(run.spec_hash, run)
    return runs


def _has_same_inputs(run: Run, spec: AnySpec, content_hashes: dict[str, str | None]) -> bool:
    """Whether the datasets have the contents that they had at the start of the run.

    Contents that are known now and were not known then count as changed. A run without an attempt reads current ones.
    """
    if run.inputs is None and run.state != State.SUCCEEDED:
        return True
    read = (run.inputs or {}).get("datasets", {})
    return all(read.get(name) == content_hashes.get(name) for name in spec.references().datasets.values())
