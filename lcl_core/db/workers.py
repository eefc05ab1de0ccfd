"""Worker processes and their GPUs: heartbeats, leases of devices, and the load of queue and workers at this moment.

A device is leased in the transaction that claims the run, and free when that lease ends; no other write frees it.
Claims of workers that share a device are serialised by the lock on its row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.orm import Session

from lcl_core.common.gpus import is_whole
from lcl_core.common.logging import log_database_error
from lcl_core.db.leases import Claim
from lcl_core.db.models import DeviceRow, Run, Worker
from lcl_core.db.session import UNREACHABLE, dialect_insert, now
from lcl_core.db.states import LEASED, State
from lcl_core.jobs import ANY_DEVICE

log = structlog.get_logger(__name__)
FORGET_AFTER = timedelta(minutes=10)
ALIVE_WITHIN = timedelta(seconds=30)  # ten heartbeats, and at least two
_ENGINE_PREFIX = "executor "
ENGINES_NEEDED = (
    "runs of several nodes need workers with LCL_EXECUTOR=ray, slurm or kubernetes "
    "(for two machines: `ray start` on each, and LCL_EXECUTOR=ray)"
)


@dataclass(frozen=True)
class WorkerIdentity:
    """Properties of a worker process that do not change."""

    id: str
    host: str
    pid: int
    slots: int
    devices: tuple[str, ...]
    offers: tuple[str, ...] = ("cpu",)
    gpu_ids: tuple[str, ...] = ()  # devices that it may lease to runs


def engine_device(executor: str) -> str:
    """``devices`` of a worker whose executor places the processes of runs on a cluster."""
    return f"{_ENGINE_PREFIX}{executor}"


def uses_engine(devices: Sequence[str]) -> bool:
    """Whether the worker with these ``devices`` has an executor that places the processes of runs on a cluster."""
    return any(device.startswith(_ENGINE_PREFIX) for device in devices)


class LiveWorker(NamedTuple):
    """A worker with a recent heartbeat."""

    id: str
    offers: list[Any]
    slots: int
    devices: list[str]  # that no api serves inference on
    has_engine: bool  # its executor places the processes of runs on a cluster, whose free capacity is not known here

    @property
    def size(self) -> int:
        """Devices that its largest run could get."""
        return capacity(self.devices)

    def can_serve(self, run: Run) -> bool:
        """Whether it could run the run if all its slots and devices were free."""
        return can_serve(self.offers, run.resource) and needed_devices(run, self.size) <= self.size


def can_serve(offers: Collection[str], resource: str) -> bool:
    """Whether a worker with these resources can run a run of that resource class."""
    return resource in (*offers, ANY_DEVICE)


def live_workers(session: Session, moment: datetime) -> list[LiveWorker]:
    """Workers with a recent heartbeat. Only columns are read: ``current_run`` is a separate query for each worker."""
    columns = Worker.id, Worker.offers, Worker.slots, Worker.gpu_ids, Worker.devices
    rows = session.execute(select(*columns).where(Worker.seen_at >= moment - ALIVE_WITHIN)).tuples().all()
    serving = serving_devices(session) if any(gpus for _, _, _, gpus, _ in rows) else set()
    return [
        LiveWorker(id_, offers, slots, [each for each in gpus if each not in serving], uses_engine(names))
        for id_, offers, slots, gpus, names in rows
    ]


def record_heartbeat(session: Session, worker: WorkerIdentity, gpus: Sequence[dict[str, Any]] = ()) -> None:
    """Record that the worker is alive; the first call inserts its row. Workers without recent heartbeats are deleted.

    ``gpus``: use of each: id, name, utilization (0–1), memory_used, memory_total (bytes); None where not known.
    """
    moment = now(session)
    row = session.get(Worker, worker.id)
    if row is None:
        columns = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(worker).items()}
        session.add(Worker(started_at=moment, seen_at=moment, gpus=list(gpus), **columns))
    else:
        row.seen_at, row.gpus = moment, list(gpus)
    session.execute(delete(Worker).where(Worker.seen_at < moment - FORGET_AFTER))


def deregister(session: Session, worker_id: str) -> None:
    """Delete the row of a worker that shuts down."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def is_first_worker(session: Session, worker_id: str, seconds: float, executor: str | None = None) -> bool:
    """Whether it has the lowest id of the workers with a heartbeat within ``seconds``: one does what is done for all.

    ``executor``: only of those whose executor it is.
    """
    rows = select(Worker.id, Worker.devices).where(Worker.seen_at >= now(session) - timedelta(seconds=seconds))
    wanted = None if executor is None else engine_device(executor)
    alive = (id_ for id_, devices in session.execute(rows).tuples() if wanted is None or wanted in devices)
    return min(alive, default=None) == worker_id


class PeriodicTask:
    """Calls ``work`` in a separate thread, ``seconds`` apart, and again at once when it returns True.

    A failure is logged and ends only its own round. ``delayed``: wait once before the first. ``join_seconds``: how long
    ``stop`` waits for a round at work; None: until it has ended.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        seconds: float,
        *,
        delayed: bool = False,
        join_seconds: float | None = None,
    ) -> None:
        self._name, self._work, self._seconds = name, work, seconds
        self._delayed, self._join_seconds = delayed, join_seconds
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        if self._thread.is_alive():
            self._thread.join(self._join_seconds)

    def _serve(self) -> None:
        if self._delayed:
            self.stopping.wait(self._seconds)
        while not self.stopping.is_set():
            try:
                if self._work() is True:
                    continue
            except UNREACHABLE as error:
                log_database_error(error)
            except Exception:
                log.exception("maintenance_failed", task=self._name)
            self.stopping.wait(self._seconds)


@dataclass(frozen=True)
class WorkerStats:
    """Workers with a heartbeat within ALIVE_WITHIN."""

    workers: int
    slots: int
    slots_used: int  # leased runs


def queue_depths(session: Session) -> dict[tuple[str, str], tuple[int, float]]:
    """{(kind, resource class): number of queued runs, seconds since the first of them could have been claimed}."""
    moment, ready = now(session), func.min(Run.ready_at, type_=Run.ready_at.type)
    query = select(Run.kind, Run.resource, func.count(), ready).where(Run.state == State.QUEUED.value)
    rows = session.execute(query.group_by(Run.kind, Run.resource)).tuples()
    return {(kind, resource): (depth, _seconds(oldest, moment)) for kind, resource, depth, oldest in rows}


def lost_runs(session: Session) -> int:
    """Number of queued and running runs whose last attempt ended because its worker was lost."""
    is_lost = Run.interruption["code"].as_string() == "worker_lost"
    unfinished = Run.state.in_([State.QUEUED.value, State.RUNNING.value])
    return session.scalars(select(func.count()).select_from(Run).where(unfinished, is_lost)).one()


def worker_stats(session: Session) -> WorkerStats:
    """Number of workers that are alive, and their load."""
    alive = select(func.count(), func.coalesce(func.sum(Worker.slots), 0)).where(
        Worker.seen_at >= now(session) - ALIVE_WITHIN
    )
    workers, slots = session.execute(alive).tuples().one()
    leased = select(func.count()).select_from(Run).where(Run.state.in_([state.value for state in LEASED]))
    return WorkerStats(workers, slots, session.scalars(leased).one())


def gpu_usage(session: Session) -> list[tuple[str, int, dict[str, Any]]]:
    """(worker, number of the GPU, its use as in ``record_heartbeat``) of the workers that are alive."""
    query = select(Worker.id, Worker.gpus).where(Worker.seen_at >= now(session) - ALIVE_WITHIN).order_by(Worker.id)
    rows = session.execute(query).tuples()
    return [(worker, number, use) for worker, uses in rows for number, use in enumerate(uses)]


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


def leased_devices(session: Session, devices: Collection[str] | None = None) -> dict[str, str]:
    """{device: id of the run that has it}, of these devices or of all."""
    of_lease = and_(Run.id == DeviceRow.run_id, Run.lease_token == DeviceRow.token)
    query = select(DeviceRow.id, Run.id).join(Run, of_lease).order_by(DeviceRow.id)
    if devices is not None:
        query = query.where(DeviceRow.id.in_(devices))
    return dict(session.execute(query).tuples().all())


def capacity(devices: Collection[str]) -> int:
    """The most devices that one run can get of these: MIG instances serve runs that need one."""
    return max(sum(map(is_whole, devices)), min(1, len(devices)))


def needed_devices(run: Run, size: int) -> int:
    """Number of devices that the run uses of a worker whose largest run can get ``size`` of them."""
    return run.gpus if run.resource == "gpu" or (run.resource == ANY_DEVICE and size) else 0


def serving_devices(session: Session) -> set[str]:
    """Devices on which an api serves inference, also while it cannot renew its lease: see ``expire_serving_leases``."""
    return set(session.scalars(select(DeviceRow.id).where(DeviceRow.serving_until.is_not(None))))


def has_expired_serving_leases(session: Session) -> bool:
    """Whether ``expire_serving_leases`` would find a device; only reads."""
    query = select(DeviceRow.id).where(DeviceRow.serving_until < now(session))
    return session.scalars(query.limit(1)).first() is not None


def expire_serving_leases(session: Session) -> list[str]:
    """Release devices whose api has ended for runs. Returns: their ids.

    To be called only when the database has answered for a lease without a gap: after an outage of it every api that
    still runs has renewed its lease by then.
    """
    ended = update(DeviceRow).where(DeviceRow.serving_until < now(session)).values(serving_until=None)
    return list(session.scalars(ended.returning(DeviceRow.id)))


def lease_for_serving(session: Session, device: str, seconds: float) -> str | None:
    """Keep a device for inference for ``seconds`` from now: no further run gets it.

    Returns: the id of the run that still has it; None: it is free for inference.
    """
    _lock_rows(session, [device])
    until = now(session) + timedelta(seconds=seconds)
    session.execute(update(DeviceRow).where(DeviceRow.id == device).values(serving_until=until))
    # a worker may be too small now for the run that reserves it; the next claims reserve again
    session.execute(update(Run).where(Run.reserved_by.is_not(None)).values(reserved_by=None))
    return leased_devices(session, [device]).get(device)


def lock_devices(session: Session, devices: Sequence[str]) -> tuple[list[str], list[str]]:
    """Lock the devices of a worker until the transaction ends.

    Returns: those that no api serves inference on, and those of them that no run has.
    """
    if not devices:
        return [], []
    rows = _lock_rows(session, devices)
    usable = [device for device in devices if rows[device].serving_until is None]
    leased = leased_devices(session, usable)
    return usable, [device for device in usable if device not in leased]


def _lock_rows(session: Session, devices: Collection[str]) -> dict[str, DeviceRow]:
    """Rows of the devices, in order of their ids. Inserts what is missing."""
    query = select(DeviceRow).where(DeviceRow.id.in_(devices)).order_by(DeviceRow.id).with_for_update()
    query = query.execution_options(populate_existing=True)
    rows = {row.id: row for row in session.scalars(query)}
    if missing := sorted(set(devices) - set(rows)):
        values = [{"id": device} for device in missing]
        session.execute(dialect_insert(session, DeviceRow).values(values).on_conflict_do_nothing())
        rows = {row.id: row for row in session.scalars(query)}
    return rows


def choose_devices(free: Sequence[str], number: int) -> tuple[str, ...] | None:
    """So many of the free devices; None: there are too few. A run that needs several gets no MIG instances."""
    fitting = free if number <= 1 else [device for device in free if is_whole(device)]
    return tuple(fitting[:number]) if len(fitting) >= number else None


def lease_devices(session: Session, claim: Claim) -> None:
    """Lease the devices of a claim under its token."""
    if claim.devices:
        of_claim = update(DeviceRow).where(DeviceRow.id.in_(claim.devices))
        session.execute(of_claim.values(run_id=claim.run_id, token=claim.token))
