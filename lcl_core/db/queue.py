"""Job queue: order of the queued runs, and the claim of the next one.

Order: priority, then the run that reserves the worker, then the owner with the fewest running runs, then the longest
wait. A run that is next and needs more GPUs than are free reserves the worker: nothing behind it gets a GPU there. A
claim is a compare-and-swap on the state; PostgreSQL skips rows that another worker has locked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import cast

from sqlalchemy import Float, Table, and_, bindparam, case, false, func, literal_column, null, or_, select, update
from sqlalchemy.orm import Session

from lcl_core.db import workers
from lcl_core.db.leases import CLAIM_FIELDS, Claim, is_unwanted
from lcl_core.db.models import Run, Worker
from lcl_core.db.session import now
from lcl_core.db.states import LEASED, State
from lcl_core.jobs import ANY_DEVICE, RESOURCES

_LOCKED_AT_ONCE = 50  # more than there are claims at one moment
# spelled out: with a parameter the partial index of queued runs would not be read
_QUEUED = Run.state == literal_column(f"'{State.QUEUED.value}'")
_DUE = Run.ready_at <= bindparam("moment")
_SERVED = Run.resource.in_(bindparam("resources", expanding=True))
# ``devices``: number of GPUs that the largest run could get of this worker
_USES_DEVICES = or_(Run.resource == "gpu", and_(Run.resource == ANY_DEVICE, bindparam("devices", type_=Float) > 0))
_FITS = or_(and_(_SERVED, ~_USES_DEVICES), and_(_USES_DEVICES, Run.gpus <= bindparam("room")))

_running = (
    select(Run.owner, func.count().label("runs"))
    .where(Run.state.in_([state.value for state in LEASED]))
    .group_by(Run.owner)
    .subquery()
)
_FEWEST_RUNNING = func.coalesce(_running.c.runs, 0)

_reserved_here = func.coalesce(Run.reserved_by, "") == bindparam("worker")
_live_workers = select(Worker.id).where(Worker.seen_at >= bindparam("alive_since"))
_reserved_elsewhere = and_(~_reserved_here, Run.reserved_by.in_(_live_workers))
_ORDER = (-Run.priority, case((_reserved_here, 0), else_=1), _FEWEST_RUNNING, Run.queued_at, Run.id)
# the first runs are found in the index alone, which a query that locks rows cannot do; others lock some of them
_first_runs = (
    select(*(column.label(f"order_{number}") for number, column in enumerate(_ORDER)))
    .outerjoin(_running, _running.c.owner == Run.owner)
    .where(_QUEUED, Run.nodes == 1, _DUE, _FITS, Run.id.not_in(bindparam("passed", expanding=True)))
    .order_by(*_ORDER)
    .limit(_LOCKED_AT_ONCE)
    .subquery()
)
_NEXT = (
    select(Run.id, case((_USES_DEVICES, Run.gpus), else_=0), func.coalesce(_reserved_elsewhere, false()))
    .join(_first_runs, _first_runs.c.order_4 == Run.id)
    .where(_QUEUED)
    .order_by(*_first_runs.c)
    .limit(1)
    .with_for_update(of=Run, skip_locked=True)
)

# runs whose processes have outlived their worker; they already have their capacity
_REATTACHABLE = (
    select(Run.id)
    .where(_QUEUED, Run.handle.is_not(None), Run.handle["executor"].as_string() == bindparam("executor"))
    .where(~is_unwanted())
    .order_by(Run.priority.desc(), Run.queued_at, Run.id)
    .limit(1)
    .with_for_update(of=Run, skip_locked=True)
)
_NEXT_FOR_ENGINE = (
    select(Run.id)
    .outerjoin(_running, _running.c.owner == Run.owner)
    .where(_QUEUED, _DUE, _SERVED, Run.nodes <= bindparam("nodes"))
    .where(Run.nodes * bindparam("cpus_per_node", type_=Float) <= bindparam("cpus", type_=Float))
    .where(or_(~_USES_DEVICES, Run.nodes * Run.gpus <= bindparam("gpus", type_=Float)))
    .order_by(Run.priority.desc(), _FEWEST_RUNNING, Run.queued_at, Run.id)
    .limit(1)
    .with_for_update(of=Run, skip_locked=True)
)

# of the table, not the class: each session would compose a statement of the class anew
_table = cast(Table, Run.__table__)
_run = _table.c
_LEASE = (
    update(_table)
    .where(_run.id == bindparam("claimed"), _run.state == State.QUEUED.value)
    .values(
        {
            _run.state: State.RUNNING.value,
            _run.reserved_by: None,
            _run.attempt: _run.attempt + 1,
            _run.started_at: func.coalesce(_run.started_at, bindparam("moment", type_=_run.started_at.type)),
            _run.lease_token: bindparam("token"),
            _run.lease_owner: bindparam("worker"),
            _run.lease_expires_at: bindparam("expires_at"),
            _run.handle: case((is_unwanted(_run), null()), else_=_run.handle),
        }
    )
    .returning(*(_run[name] for name in ("id", *CLAIM_FIELDS)))
)


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    devices: Sequence[str] = (),
) -> Claim | None:
    """Claim the next run of one node for a worker, with the devices that it needs; None: there is none.

    ``devices``: ids of the GPUs of the worker; without any it executes runs that may run anywhere on the CPU.
    """
    usable, free = workers.lock_devices(session, devices)
    moment, size, passed = now(session), workers.capacity(usable), list[str]()
    given = {
        "moment": moment,
        "alive_since": moment - workers.ALIVE_WITHIN,
        "worker": worker,
        "resources": _resources(offers),
        "devices": size,
        "room": size,
        "passed": passed,
    }
    while (row := session.execute(_NEXT, given).tuples().one_or_none()) is not None:
        run_id, gpus, reserves_another = row
        chosen = workers.choose_devices(free, gpus)
        if chosen is not None:
            claim = _lease(session, run_id, worker, lease_seconds, chosen)
            workers.lease_devices(session, claim)
            return claim
        if reserves_another:
            passed.append(run_id)
            continue
        if gpus > 1:
            session.execute(update(Run).where(Run.id == run_id).values(reserved_by=worker))
        given["room"] = 0  # only runs that need no GPU go on
    return None


@dataclass(frozen=True)
class EngineCapacity:
    """Free capacity, at this moment, of an engine that places the processes of runs."""

    executor: str  # whose handles its workers re-attach to
    nodes: int
    cpus: float  # of all nodes
    gpus: float  # of all nodes
    has_gpus: bool  # whether any node has some; else runs of the class ``accelerator`` use CPUs
    cpus_per_node: float = 1.0  # that each node of a run gets


def claim_for_engine(
    session: Session, worker: str, lease_seconds: float, offers: Sequence[str], capacity: EngineCapacity
) -> Claim | None:
    """Claim the next run that fits, all its nodes, for a worker whose executor places processes; None: there is none.

    Runs whose processes have outlived their worker come first.
    """
    run_id = session.scalars(_REATTACHABLE, {"executor": capacity.executor}).one_or_none()
    if run_id is None:
        given = {**asdict(capacity), "moment": now(session), "resources": _resources(offers)}
        run_id = session.scalars(_NEXT_FOR_ENGINE, {**given, "devices": int(capacity.has_gpus)}).one_or_none()
    return None if run_id is None else _lease(session, run_id, worker, lease_seconds)


def _resources(offers: Sequence[str]) -> list[str]:
    return [*offers, ANY_DEVICE]


def _lease(session: Session, run_id: str, worker: str, lease_seconds: float, devices: tuple[str, ...] = ()) -> Claim:
    """Lease a run whose row is locked."""
    moment, token = now(session), secrets.token_hex(16)
    given = {"claimed": run_id, "moment": moment, "token": token, "worker": worker}
    given["expires_at"] = moment + timedelta(seconds=lease_seconds)
    run = session.execute(_LEASE, given).one()
    return Claim.of(run, token, worker, devices=devices)


def has_ready_runs(session: Session) -> bool:
    """Whether a queued run may be claimed now, by some worker; those whose processes go on wait for no time."""
    ready = or_(Run.ready_at <= now(session), Run.handle.is_not(None))
    return session.scalars(select(Run.id).where(_QUEUED, ready).limit(1)).first() is not None
