"""Writes to the row of a run: state transitions, leases, and what a worker reports under its lease.

A worker owns a run by a token that expires. Every write of the worker names the token; after the token has expired
or changed the write raises ``StaleLease`` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, object_session

from lcl_core.db.metrics import ATTEMPTS, CLAIM_LATENCY, LEASE_LOSSES, RUN_DURATION, Increment, record_increments
from lcl_core.db.models import Metric, Run, to_json_safe
from lcl_core.db.outbox import NOTIFIED_STATES, enqueue_webhooks
from lcl_core.db.session import dialect_insert, now
from lcl_core.db.states import FINISHED, LEASED, State, check_transition
from lcl_core.jobs import ANY_DEVICE


def transition(run: Run, target: State, **changes: Any) -> Run:
    """The only place that writes ``state`` of a row that is there; webhooks hear of it. Raises: ForbiddenTransition."""
    check_transition(run.id, run.state, target)
    run.state = target.value
    for name, value in changes.items():
        setattr(run, name, value)
    session = object_session(run)
    if target in NOTIFIED_STATES and session is not None:
        enqueue_webhooks(session, run)
    return run


NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}


_CLAIM_FIELDS = (
    "kind",
    "spec",
    "attempt",
    "max_attempts",
    "from_scratch",
    "ran_seconds",
    "continues",
    "resource",
    "nodes",
)


class StaleLease(Exception):
    """The run is no longer this worker's: whatever it wanted to write must be discarded."""


@dataclass(frozen=True)
class Claim:
    """The right to work on a run, and what a supervisor must know of it."""

    run_id: str
    token: str
    worker: str
    kind: str
    spec: dict[str, Any]
    attempt: int
    max_attempts: int
    from_scratch: bool
    ran_seconds: float
    continues: str | None = None
    resource: str = ANY_DEVICE
    nodes: int = 1
    node: int = 0  # of those: 0 holds the lease
    waited_seconds: float = 0.0  # from when the run could have been taken

    @classmethod
    def of(cls, run: Run, token: str, worker: str, **more: Any) -> Claim:
        """What a row says, for the holder of ``token``."""
        return cls(
            run_id=run.id, token=token, worker=worker, **{name: getattr(run, name) for name in _CLAIM_FIELDS}, **more
        )


def lock_with_lease(session: Session, claim: Claim) -> Run:
    """The locked row of a run that ``claim`` still holds. Raises: StaleLease."""
    query = select(Run).where(Run.id == claim.run_id, Run.lease_token == claim.token).with_for_update(of=Run)
    run = session.scalars(query).one_or_none()
    if run is None:
        raise StaleLease(claim.run_id)
    return run


def check_lease(session: Session, claim: Claim) -> State:
    """The state of a run that ``claim`` still holds; takes no lock. Raises: StaleLease."""
    query = select(Run.state).where(Run.id == claim.run_id, Run.lease_token == claim.token)
    state = session.scalars(query).one_or_none()
    if state is None:
        raise StaleLease(claim.run_id)
    return State(state)


def renew_lease(session: Session, claim: Claim, lease_seconds: float = 30.0, ran_seconds: float | None = None) -> State:
    """Extend the lease from now on; returns the state. Raises: StaleLease."""
    run = lock_with_lease(session, claim)
    run.lease_expires_at = now(session) + timedelta(seconds=lease_seconds)
    if ran_seconds is not None:
        run.ran_seconds = ran_seconds
    return State(run.state)


def release_lease(
    session: Session, claim: Claim, *, uses_attempt: bool = False, cause: str = "the worker gave it back"
) -> State:
    """Give a run up unfinished, for another worker to resume. One being paused or cancelled ends so instead.

    ``uses_attempt`` counts the attempt as a lost worker does. Raises: StaleLease.
    """
    run, moment = lock_with_lease(session, claim), now(session)
    run.interruption = {"code": "handed_back", "message": f"{cause}, in attempt {run.attempt}"}
    if uses_attempt or run.state == State.CANCELLING:
        _handle_lost_worker(run, moment)
    else:
        run.attempt -= 1
        _requeue_or_pause(run, moment)
    record_increments(session, end_increments(run))
    return State(run.state)


def expire_leases(session: Session) -> list[Run]:
    """Take runs from workers that let their lease run out: queue, fail or cancel them. Returns those runs."""
    moment = now(session)
    query = (
        select(Run)
        .where(Run.state.in_([state.value for state in LEASED]), Run.lease_expires_at < moment)
        .with_for_update(of=Run, skip_locked=True)
    )
    lost = list(session.scalars(query))
    for run in lost:
        told = f"worker {run.lease_owner} was lost in attempt {run.attempt} of {run.max_attempts}"
        run.interruption = {"code": "worker_lost", "message": told}
        _handle_lost_worker(run, moment)
    record_increments(
        session, [tick for run in lost for tick in (LEASE_LOSSES.increment(kind=run.kind), *end_increments(run))]
    )
    return lost


def end_increments(run: Run) -> list[Increment]:
    """What to count of a run that a worker has just let go: nothing, unless that was its end."""
    if run.state not in FINISHED:
        return []
    return [RUN_DURATION.increment(run.ran_seconds, kind=run.kind, state=run.state)]


def has_expired_leases(session: Session) -> bool:
    """Whether ``expire`` would find something; only reads."""
    query = select(Run.id).where(Run.state.in_([state.value for state in LEASED]), Run.lease_expires_at < now(session))
    return session.scalars(query.limit(1)).first() is not None


def _requeue_or_pause(run: Run, moment: datetime) -> None:
    """A run that is unfinished through no fault of its own goes back to where it came from, or is paused."""
    if run.state == State.PAUSING:
        transition(run, State.PAUSED, **NO_LEASE)
    else:
        transition(run, State.QUEUED, ready_at=moment, **NO_LEASE)


def _handle_lost_worker(run: Run, moment: datetime) -> None:
    """What becomes of a run whose worker is gone."""
    if run.state == State.CANCELLING:
        transition(run, State.CANCELLED, finished_at=moment, **NO_LEASE)
    elif run.state == State.RUNNING and run.attempt >= run.max_attempts:
        reason = {
            "code": "worker_lost",
            "message": f"the worker was lost in each of {run.attempt} attempts, last {run.lease_owner}; "
            "look at its log and memory, then resume the run: it goes on from its last checkpoint",
        }
        transition(run, State.FAILED, finished_at=moment, reason=reason, **NO_LEASE)
    else:
        _requeue_or_pause(run, moment)


_ROWS_A_STATEMENT = 500


def begin_attempt(
    session: Session,
    claim: Claim,
    *,
    encoder_id: str | None,
    from_scratch: bool,
    inputs: dict[str, Any] | None = None,
) -> None:
    """Note what the attempt starts from; one that starts over forgets what earlier attempts reported.

    The attempt and how long the run had waited for it are counted here: a claim must not wait for another's count.

    Raises: StaleLease.
    """
    run = lock_with_lease(session, claim)
    run.encoder_id = encoder_id
    run.inputs = inputs
    run.from_scratch = False
    if from_scratch:
        run.progress = None
        session.execute(delete(Metric).where(Metric.run_id == claim.run_id))
    record_increments(
        session, [ATTEMPTS.increment(kind=run.kind), CLAIM_LATENCY.increment(claim.waited_seconds, kind=run.kind)]
    )


def record_interruption(session: Session, claim: Claim, notice: dict[str, Any]) -> None:
    """Say in the run's row what its attempt came upon, beside why the attempt before ended. Raises: StaleLease."""
    run = lock_with_lease(session, claim)
    before = f"{run.interruption['message']}; " if run.interruption else ""
    run.interruption = {"code": notice["code"], "message": f"{before}{notice['message']}"}


def record_metrics(session: Session, claim: Claim, lines: Sequence[dict[str, Any]], *, rewound: bool = False) -> None:
    """Copy metric lines to the database; the last one becomes the run's progress.

    A step that is there already is written over, never doubled. ``rewound`` says that ``lines`` is the whole
    file after the process cut it back to its checkpoint: what the database has beyond it is forgotten.

    Raises: StaleLease.
    """
    run = lock_with_lease(session, claim)
    if rewound:
        last = max((line["step"] for line in lines), default=-1)
        session.execute(delete(Metric).where(Metric.run_id == claim.run_id, Metric.step > last))
    rows = {}
    for line in lines:
        key = (str(line.get("phase") or "")[:60], line["step"])
        rows[key] = {"run_id": claim.run_id, "phase": key[0], "step": key[1], "values": to_json_safe(line)}
    _upsert_metrics(session, list(rows.values()))
    if lines:
        run.progress = to_json_safe(lines[-1])


def _upsert_metrics(session: Session, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        statement = dialect_insert(session, Metric).values(rows[start : start + _ROWS_A_STATEMENT])
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["run_id", "phase", "step"], set_={"values": statement.excluded["values"]}
            )
        )
