"""Writes to the row of a run: state transitions, leases, and what a worker reports under its lease.

A worker owns a run by a token that expires. Every write of the worker names the token; after the token has expired
or changed the write raises ``StaleLease`` and changes nothing.

An engine (Ray, Slurm, Kubernetes) keeps processes running after their worker has ended. ``Run.handle``, which is
recorded before they start, finds them again. Only a worker that knows that none of them is left removes it. A queued
run with a handle is claimed by a worker of the same engine, which re-attaches. ``transition`` marks the handle as
``UNWANTED`` when the run must not continue with these processes: it was paused, cancelled, failed or restarted
meanwhile. Workers of the engine end the processes of marked handles (``workers.maintenance.end_unwanted_jobs``). Until
then nobody claims the run, but not for longer than ``REATTACH_SECONDS``, after which the processes end by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, false, func, null, select, update
from sqlalchemy.orm import Session, object_session

from lcl_core.db.artifacts import enqueue_upload, forget_checkpoints
from lcl_core.db.models import Metric, Run
from lcl_core.db.session import dialect_insert, now, storable_json
from lcl_core.db.states import FINISHED, LEASED, State, check_transition
from lcl_core.db.webhooks import NOTIFIED_STATES, enqueue_webhooks
from lcl_core.jobs import ANY_DEVICE

NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}
# {cause: number of attempts that it ended since the run's last new checkpoint}; under COUNTED those of max_attempts
Setbacks = Mapping[str, int]
COUNTED, REATTACHED = "attempts", "reattached"
# Processes on an executor that outlives its workers wait this long for one that re-attaches, then save their state and
# end. A run is queued for that reason, without being counted, this many times without a new checkpoint.
REATTACH_SECONDS = 300.0
REATTACHMENTS = 10
NO_CAPACITY = "no_capacity"  # cause: the engine has not enough free resources for the whole run
UNWANTED = "unwanted"  # key in a handle: the run does not continue with these processes, and they are to end
CLAIM_FIELDS = (
    *("kind", "spec", "attempt", "max_attempts", "from_scratch", "restarts", "ran_seconds", "resource"),
    *("nodes", "gpus", "handle"),
)
_ROWS_A_STATEMENT = 500


class StaleLease(Exception):
    """The worker has lost its lease on the run; its write is discarded."""


@dataclass(frozen=True)
class Claim:
    """A worker's lease on a run, with what its supervisor needs to know about the run."""

    run_id: str
    token: str
    worker: str
    kind: str
    spec: dict[str, Any]
    attempt: int
    max_attempts: int
    from_scratch: bool
    ran_seconds: float
    resource: str = ANY_DEVICE
    nodes: int = 1
    gpus: int = 1  # of each node that runs on GPUs
    devices: tuple[str, ...] = ()  # ids of the GPUs that it may use; none: the processor
    handle: dict[str, Any] | None = None  # of processes that outlived the worker before
    restarts: int = 0  # how often a retry started the run from the beginning

    @property
    def attempt_id(self) -> str:
        """16 hex digits, of this attempt alone."""
        return hashlib.sha256(self.token.encode()).hexdigest()[:16]

    @classmethod
    def of(cls, run: Run | Row[Any], token: str, worker: str, **more: Any) -> Claim:
        """Claim by the worker that has ``token`` of a run, or of a row with its ``id`` and ``CLAIM_FIELDS``."""
        fields = {name: getattr(run, name) for name in CLAIM_FIELDS}
        return cls(run_id=run.id, token=token, worker=worker, **fields, **more)


def transition(run: Run, target: State, **changes: Any) -> Run:
    """Change the state of a run, with further columns, and enqueue its webhooks. Nothing else writes ``state``."""
    check_transition(run.id, run.state, target)
    run.state = target.value
    run.reserved_by = None
    for name, value in changes.items():
        setattr(run, name, value)
    if run.handle is not None and target is State.QUEUED:
        run.ready_at += timedelta(seconds=REATTACH_SECONDS)  # for other workers than those of its engine
    elif run.handle is not None and target not in LEASED:
        run.handle = {**run.handle, UNWANTED: True}
    session = object_session(run)
    if target in NOTIFIED_STATES and session is not None:
        enqueue_webhooks(session, run)
    return run


def lock_with_lease(session: Session, claim: Claim) -> Run:
    """Lock the row of a run. Raises: StaleLease unless ``claim`` is its current lease."""
    query = select(Run).where(Run.id == claim.run_id, Run.lease_token == claim.token).with_for_update(of=Run)
    run = session.scalars(query).one_or_none()
    if run is None:
        raise StaleLease(claim.run_id)
    return run


def check_lease(session: Session, claim: Claim) -> State:
    """State of a run, without a lock. Raises: StaleLease unless ``claim`` is its current lease."""
    query = select(Run.state).where(Run.id == claim.run_id, Run.lease_token == claim.token)
    state = session.scalars(query).one_or_none()
    if state is None:
        raise StaleLease(claim.run_id)
    return State(state)


def renew_lease(session: Session, claim: Claim, lease_seconds: float = 30.0, ran_seconds: float | None = None) -> State:
    """Extend the lease to ``lease_seconds`` from now. Returns: the state of the run. Raises: StaleLease."""
    run = lock_with_lease(session, claim)
    run.lease_expires_at = now(session) + timedelta(seconds=lease_seconds)
    if ran_seconds is not None:
        run.ran_seconds = ran_seconds
    return State(run.state)


def release_lease(
    session: Session,
    claim: Claim,
    *,
    uses_attempt: bool = False,
    cause: str = "the worker gave it back",
    code: str = "",
    delay_seconds: float = 0.0,
    keep_handle: bool = False,
    holder: str | None = None,
) -> State:
    """Release an unfinished run, for another worker to resume; a pausing or cancelling one is paused or cancelled.

    Args:
        uses_attempt: the attempt counts, as one whose worker was lost.
        code: cause that is counted until the next new checkpoint.
        delay_seconds: until the run may be claimed again.
        keep_handle: its processes may continue, and the next worker re-attaches to them.
        holder: id of the home, if the folder of a run that ends here is to be uploaded to an artifact store.

    Raises: StaleLease.
    """
    run, moment = lock_with_lease(session, claim), now(session)
    later = f"; the next attempt starts in {delay_seconds:g} s" if delay_seconds else ""
    run.interruption = {"code": "handed_back", "message": f"{cause}, in attempt {run.attempt}{later}"}
    if not keep_handle:
        run.handle = None
    if uses_attempt or run.state == State.CANCELLING:
        _handle_lost_worker(run, moment, code or "released")
    else:
        run.attempt -= 1
        if code:
            _count_setback(run, code)
        _requeue_or_pause(run, moment + timedelta(seconds=delay_seconds))
    if holder is not None and run.state in FINISHED:
        enqueue_upload(session, f"runs/{run.id}", run.attempt, holder)
    return State(run.state)


def record_handle(session: Session, claim: Claim, handle: dict[str, Any]) -> None:
    """Record how another worker re-attaches to the run's processes, before they start. Raises: StaleLease."""
    lock_with_lease(session, claim).handle = handle


def is_unwanted(run: Any = Run) -> ColumnElement[bool]:
    """Condition on a run: it has a handle of processes that are to end."""
    return func.coalesce(run.handle[UNWANTED].as_boolean(), false())


def unwanted_processes(session: Session, executor: str) -> list[tuple[str, dict[str, Any]]]:
    """(id of the run, handle) of all processes that are to end and that workers with this executor can find."""
    own = Run.handle["executor"].as_string() == executor
    # in no order: for one by id SQLite would read all runs instead of the index of those with a handle
    query = select(Run.id, Run.handle).where(Run.handle.is_not(None), own, is_unwanted())
    return [(run_id, handle) for run_id, handle in session.execute(query).tuples() if handle is not None]


def forget_processes(session: Session, run_id: str, handle: Mapping[str, Any]) -> None:
    """Remove the handle of unwanted processes of which none is left, unless the run has other processes by now."""
    same = Run.handle["name"].as_string() == handle["name"]
    session.execute(
        update(Run).where(Run.id == run_id, is_unwanted(), same).values(handle=null(), ready_at=now(session))
    )


def read_setbacks(session: Session, claim: Claim) -> Setbacks:
    """What ended attempts of the run since its last new checkpoint. Raises: StaleLease."""
    return lock_with_lease(session, claim).setbacks or {}


def expire_leases(session: Session) -> list[Run]:
    """Queue, pause, fail or cancel the runs whose lease has expired. Returns: those runs."""
    moment = now(session)
    lost = list(session.scalars(_expired(moment).with_for_update(of=Run, skip_locked=True)))
    for run in lost:
        message = f"worker {run.lease_owner} was lost in attempt {run.attempt}"
        reattached = (run.setbacks or {}).get(REATTACHED, 0)
        if run.state == State.RUNNING and run.handle is not None and reattached < REATTACHMENTS:
            run.interruption = {"code": "worker_lost", "message": f"{message}; the next worker re-attaches to it"}
            run.attempt -= 1  # the next claim continues with it
            _count_setback(run, REATTACHED)
            transition(run, State.QUEUED, ready_at=moment, **NO_LEASE)
            continue
        count = (run.setbacks or {}).get(COUNTED, 0) + 1
        of = f"{count} of {run.max_attempts} without a new checkpoint"
        run.interruption = {"code": "worker_lost", "message": f"{message} ({of})"}
        _handle_lost_worker(run, moment, "worker_lost")
    return lost


def _count_setback(run: Run, *causes: str) -> int:
    """Count an attempt that ended. Returns: those that count against ``max_attempts``."""
    counts = dict(run.setbacks or {})
    for cause in causes:
        counts[cause] = counts.get(cause, 0) + 1
    run.setbacks = counts
    return counts.get(COUNTED, 0)


def has_expired_leases(session: Session) -> bool:
    """Whether ``expire_leases`` would find a run; only reads."""
    return session.scalars(_expired(now(session)).limit(1)).first() is not None


def _expired(moment: datetime) -> Select[Run]:
    return select(Run).where(Run.state.in_([state.value for state in LEASED]), Run.lease_expires_at < moment)


def _requeue_or_pause(run: Run, moment: datetime) -> None:
    """The run did not cause the interruption."""
    if run.state == State.PAUSING:
        transition(run, State.PAUSED, **NO_LEASE)
    else:
        transition(run, State.QUEUED, ready_at=moment, **NO_LEASE)


def _handle_lost_worker(run: Run, moment: datetime, cause: str) -> None:
    """Cancel, fail (after the last attempt), pause or queue a run whose worker was lost."""
    count = _count_setback(run, COUNTED, cause)
    if run.state == State.CANCELLING:
        transition(run, State.CANCELLED, finished_at=moment, **NO_LEASE)
    elif run.state == State.RUNNING and count >= run.max_attempts:
        reason = {
            "code": "worker_lost",
            "message": f"the worker was lost in each of {count} attempts without a new checkpoint, last "
            f"{run.lease_owner}; look at its log and memory, then resume the run: it goes on from its last checkpoint",
        }
        transition(run, State.FAILED, finished_at=moment, reason=reason, **NO_LEASE)
    else:
        _requeue_or_pause(run, moment)


def begin_attempt(
    session: Session,
    claim: Claim,
    *,
    encoder_id: str | None,
    from_scratch: bool,
    inputs: dict[str, Any] | None = None,
) -> None:
    """Record the inputs of an attempt; ``from_scratch`` deletes the metrics of earlier attempts. Raises: StaleLease."""
    run = lock_with_lease(session, claim)
    run.encoder_id = encoder_id
    run.inputs = inputs
    if run.from_scratch:
        forget_checkpoints(session, run.id)
    run.from_scratch = False
    if from_scratch:
        run.progress = run.checkpoint = None
        session.execute(delete(Metric).where(Metric.run_id == claim.run_id))


def record_interruption(session: Session, claim: Claim, notice: dict[str, Any]) -> None:
    """Append the notice {"code", "message"} of this attempt to the run's interruption. Raises: StaleLease."""
    run = lock_with_lease(session, claim)
    before = f"{run.interruption['message']}; " if run.interruption else ""
    run.interruption = {"code": notice["code"], "message": f"{before}{notice['message']}"}


def record_checkpoint(session: Session, claim: Claim, name: str) -> None:
    """Record the newest checkpoint ('' for none); after a newer one than ever, all attempts are left again."""
    run = lock_with_lease(session, claim)
    if name > (run.checkpoint or ""):
        run.checkpoint, run.setbacks = name[:100], None


def record_metrics(
    session: Session,
    claim: Claim,
    lines: Sequence[dict[str, Any]],
    *,
    rewound_to: int | None = None,
) -> None:
    """Copy metric lines to the database; the last one becomes the run's progress. Raises: StaleLease.

    A row of the same phase and step is overwritten. Lines of a long file come in several transactions. ``rewound_to``:
    they are the first of a file, which the process may have truncated to its checkpoint: later steps are deleted.
    """
    rows = {}  # before the first statement: PostgreSQL ends a transaction that computes for long
    for line in lines:
        key = (str(line.get("phase") or "")[:60], line["step"])
        rows[key] = {"run_id": claim.run_id, "phase": key[0], "step": key[1], "values": storable_json(line)}
    run = lock_with_lease(session, claim)
    if rewound_to is not None:
        session.execute(delete(Metric).where(Metric.run_id == claim.run_id, Metric.step > rewound_to))
    new = list(rows.values())
    for start in range(0, len(new), _ROWS_A_STATEMENT):
        statement = dialect_insert(session, Metric).values(new[start : start + _ROWS_A_STATEMENT])
        changed = {"values": statement.excluded["values"]}
        session.execute(statement.on_conflict_do_update(index_elements=["run_id", "phase", "step"], set_=changed))
    if lines:
        run.progress = storable_json(lines[-1])
