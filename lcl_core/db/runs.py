"""Runs: lookup, pages, user actions (cancel, pause, resume, retry, delete), blocked reasons and estimates.

Each action locks the row, checks the transition with ``lcl_core.db.states``, and changes the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Text, cast, func, or_, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from lcl_core.common.errors import Conflict, NotFound, UserError
from lcl_core.db.artifacts import STORE, discard, discard_folder, forget_checkpoints, output_paths
from lcl_core.db.leases import transition
from lcl_core.db.models import Metric, Predecessor, Run, RunTag, Study, StudyCell, Worker
from lcl_core.db.session import CursorPage, now, read_page, unknown_name
from lcl_core.db.states import FINISHED, UNCLAIMED, ForbiddenTransition, State
from lcl_core.db.workers import (
    ALIVE_WITHIN,
    ENGINES_NEEDED,
    LiveWorker,
    can_serve,
    capacity,
    leased_devices,
    live_workers,
    needed_devices,
)
from lcl_core.estimate.report import Device, MeasuredRun, RunEstimate, estimate_pretraining, measured_run
from lcl_core.jobs import ANY_DEVICE
from lcl_core.specs.parsing import AnySpec
from lcl_core.specs.pretrain import HELD_OUT, PretrainSpec

MAX_LISTED_IDS = 3  # of runs or studies that have one name
ESTIMATE_FROM_RUNS = 200  # newest pre-trainings
_FETCHED_LINES = 5000  # of metrics, at one time
_EVALUATED = (Run.kind == "evaluate", Run.state == State.SUCCEEDED.value)
_NO_CHANGES: Mapping[str, Any] = {}
OwnedRow = TypeVar("OwnedRow", Run, Study)
_REMEDIES = {
    "cpu": "start one that does (LCL_WORKER_OFFERS), or submit the run again without asking for cpu",
    "gpu": "start one on a machine with a GPU, or submit the run again for cpu",
}


def get_run(session: Session, run_id: str) -> Run:
    run = session.get(Run, run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id!r}")
    return run


def find_owned(session: Session, table: type[OwnedRow], reference: str, owner: str | None = None) -> OwnedRow:
    """The run or study with that id, else the only one with that name, if it belongs to ``owner`` (None: to anyone)."""
    noun = table.__tablename__
    row = session.get(table, reference)
    if row is not None and owner in (None, row.owner):
        return row
    visible = [] if owner is None else [table.owner == owner]
    # ids alone, which the index of names has: without an owner all runs of the name are sorted
    query = select(table.id).where(table.name == reference, *visible).order_by(table.id.desc())
    ids = session.scalars(query.limit(MAX_LISTED_IDS + 1)).all()
    if len(ids) > 1:
        listed = ", ".join(ids[:MAX_LISTED_IDS]) + (", …" if len(ids) > MAX_LISTED_IDS else "")
        message = f"more than one {noun} is named {reference!r}; name one by its id: {listed}"
        raise Conflict(message)
    if not ids:
        raise unknown_name(session, table, reference, *visible)
    return session.get_one(table, ids[0])


def list_runs(
    session: Session,
    *,
    kind: str | None = None,
    state: str | None = None,
    tag: str | None = None,
    name: str | None = None,
    owner: str | None = None,
    study: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> CursorPage[Run]:
    """A page of runs, newest first, which new ones do not shift. ``name``: a part of the run's name, in any case."""
    # the index of run_tag has the runs of a tag in order; sorted by Run.id, all of them would be fetched first
    key, owner_column = (Run.id, Run.owner) if tag is None else (RunTag.run_id, RunTag.owner)
    query = select(Run)
    for column, value in ((Run.kind, kind), (Run.state, state), (owner_column, owner), (Run.study_id, study)):
        if value is not None:
            query = query.where(column == value)
    if name is not None:
        query = query.where(Run.name.icontains(name, autoescape=True))
    if tag is not None:
        query = query.join(RunTag, RunTag.run_id == Run.id).where(RunTag.tag == tag)
        if cursor is not None:
            query = query.where(Run.id < cursor)  # PostgreSQL does not infer it from the bound on RunTag.run_id
    return read_page(session, query, key, limit, cursor)


def metrics_after(session: Session, run_id: str, after: int = 0, limit: int | None = None) -> Sequence[Metric]:
    """Metric rows with an id above ``after``, by id."""
    query = select(Metric).where(Metric.run_id == run_id, Metric.id > after).order_by(Metric.id)
    return session.scalars(query.limit(limit)).all()


def metric_texts(
    session: Session, run_id: str, after: int = 0, limit: int | None = None, *, step: int | None = None
) -> Iterator[tuple[int, str]]:
    """(id, values as JSON text) of rows with an id above ``after`` and a step above ``step``, fetched in parts: a run
    may have 100,000.
    """
    query = select(Metric.id, cast(Metric.values, Text)).where(Metric.run_id == run_id, Metric.id > after)
    query = query if step is None else query.where(Metric.step > step)
    query = query.order_by(Metric.id).limit(limit)
    yield from session.execute(query.execution_options(yield_per=_FETCHED_LINES)).tuples()


def thinned_metrics(session: Session, run_ids: Sequence[str], most: int = 200) -> dict[str, list[dict[str, Any]]]:
    """{run id: metric lines of its steps, in order}, thinned alike, so that the seeds of a row have the same steps.

    Of each of ``most`` equal intervals of steps the first line and the first with numbers of held-out data remain,
    further the line of the last step of a training that has come to it.
    """
    of_steps = Metric.run_id.in_(run_ids), Metric.phase == ""
    measures_held_out = cast(Metric.values, Text).contains(f'"{HELD_OUT}', autoescape=True)
    steps = 1 + (session.scalar(select(func.max(Metric.step)).where(*of_steps)) or 0)
    interval = cast(Metric.step, BigInteger) * most // steps
    number = func.row_number().over(
        partition_by=(Metric.run_id, measures_held_out, interval), order_by=(Metric.step, Metric.id)
    )
    columns = Metric.run_id, Metric.id, Metric.step, Metric.values, number.label("number")
    numbered = select(*columns).where(*of_steps).subquery()
    is_last = numbered.c.step == Run.spec["steps"].as_integer()
    query = (
        select(numbered.c.run_id, numbered.c["values"])
        .join(Run, Run.id == numbered.c.run_id)
        .where(or_(numbered.c.number == 1, is_last))
        .order_by(numbered.c.run_id, numbered.c.step, numbered.c.id)
    )
    lines: dict[str, list[dict[str, Any]]] = {}
    for run_id, line in session.execute(query).tuples():
        lines.setdefault(run_id, []).append(line)
    return lines


def list_evaluations(session: Session, encoder_id: str) -> list[tuple[Run, list[dict[str, Any]]]]:
    """Succeeded evaluations of an encoder, newest first, each with the rows of its result."""
    query = select(Run).where(Run.encoder_id == encoder_id, *_EVALUATED).order_by(Run.id.desc())
    return [(run, (run.result or {}).get("rows", [])) for run in session.scalars(query)]


def evaluation_rows(session: Session, encoder_id: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """{encoder: rows of its evaluations, newest first, each with its run and dataset}, of one encoder or of all."""
    query = select(Run.encoder_id, Run.id, Run.spec, Run.result).where(*_EVALUATED).order_by(Run.id.desc())
    found: dict[str, list[dict[str, Any]]] = {}
    for encoder, run_id, spec, result in session.execute(
        query if encoder_id is None else query.where(Run.encoder_id == encoder_id)
    ):
        result = result or {}
        origin = {"run_id": run_id, "dataset": spec.get("dataset"), "dataset_hash": result.get("dataset_hash")}
        found.setdefault(encoder, []).extend({**row, **origin} for row in result.get("rows", ()))
    return found


def count_runs_by_state(session: Session, owner: str | None = None) -> dict[str, int]:
    """Number of runs in every state, states without runs included. ``owner``: whose runs; None: everyone's."""
    query = select(Run.state, func.count()).group_by(Run.state)
    query = query if owner is None else query.where(Run.owner == owner)
    counts = dict(session.execute(query).tuples().all())
    return {state.value: counts.get(state.value, 0) for state in State}


def unfinished_runs_by_owner(session: Session, owner: str | None = None) -> dict[str, int]:
    """{owner: number of unfinished runs} of every owner who has some, or of one."""
    unfinished = [state.value for state in State if state not in FINISHED]
    query = select(Run.owner, func.count()).where(Run.state.in_(unfinished)).group_by(Run.owner).order_by(Run.owner)
    query = query if owner is None else query.where(Run.owner == owner)
    return dict(session.execute(query).tuples().all())


def list_workers(session: Session) -> Sequence[Worker]:
    """Workers with a recent heartbeat, in the order of their start."""
    return session.scalars(select(Worker).order_by(Worker.started_at, Worker.id)).all()


def cancel_run(session: Session, run_id: str) -> Run:
    """Cancel a run. One with a lease is ``cancelling`` until its worker has stopped it."""
    run = _lock_run(session, run_id)
    if run.state == State.CANCELLING:
        raise ForbiddenTransition(run_id, run.state, "cancelled again")
    return cancel_locked_run(session, run)


def cancel_locked_run(session: Session, run: Run) -> Run:
    """``cancel_run`` for a run whose row is locked."""
    if run.state in UNCLAIMED:
        return transition(run, State.CANCELLED, finished_at=now(session))
    return transition(run, State.CANCELLING)


def pause_run(session: Session, run_id: str) -> Run:
    """Pause a run. A running one is ``pausing`` until its worker has stopped it at a checkpoint.

    The run keeps its position in the queue, and the attempt does not count.
    """
    run = _lock_run(session, run_id)
    if run.state not in (State.WAITING, State.QUEUED, State.RUNNING):
        raise ForbiddenTransition(run_id, run.state, "paused")
    return transition(run, State.PAUSING if run.state == State.RUNNING else State.PAUSED)


def unpause_run(session: Session, run_id: str) -> Run:
    """Put a paused run back into the queue, or let it wait for its predecessors."""
    run = _lock_run(session, run_id)
    if run.state != State.PAUSED:
        raise ForbiddenTransition(run_id, run.state, "unpaused; only a paused run can")
    return transition(run, _unclaimed_state(session, run), ready_at=now(session))


def resume_run(session: Session, run_id: str, changes: Mapping[str, Any] = _NO_CHANGES) -> Run:
    """Queue a failed or cancelled run again, from its last checkpoint.

    ``changes``: {"timeout_seconds": valid limit or None}; empty: it stays.
    """
    run = _requeue(session, run_id, from_scratch=False)
    if changes:
        run.spec = {**run.spec, **changes}
    limit = run.spec.get("timeout_seconds")
    if limit is not None and run.ran_seconds >= limit:
        message = (
            f"run {run_id} has been at work for {run.ran_seconds:,.0f} s, and its timeout_seconds are {limit:,g}; "
            f"raise them: lcl runs resume {run_id} --timeout SECONDS (0: no limit)"
        )
        raise Conflict(message, code="timeout_reached", field="timeout_seconds")
    return run


def retry_run(session: Session, run_id: str) -> Run:
    """Queue a failed or cancelled run again, from scratch; its metrics are deleted."""
    run = _requeue(session, run_id, from_scratch=True)
    run.progress = run.checkpoint = None
    run.ran_seconds = 0.0
    session.execute(sql_delete(Metric).where(Metric.run_id == run_id))
    return run


def annotate_run(session: Session, run_id: str, changes: Mapping[str, Any]) -> Run:
    """Replace ``tags`` or ``notes`` of a run in any state; what ``changes`` lacks stays. Empty notes are removed."""
    run = _lock_run(session, run_id)
    if "tags" in changes:
        tags = set(changes["tags"])
        # rows that stay are kept: a new row of the same key would be inserted before the old one is deleted
        run.tag_rows = [row for row in run.tag_rows if row.tag in tags]
        run.tag_rows += [RunTag(tag=tag, owner=run.owner) for tag in sorted(tags.difference(run.tags))]
    if "notes" in changes:
        run.notes = changes["notes"] or None
    session.flush()
    session.refresh(run, ["tag_rows"])
    return run


def delete_run(session: Session, run_id: str) -> None:
    """Delete a finished run with its tags and metrics; its output (encoder, collection, dataset) stays.

    The caller removes RUN_DIR after the commit.
    """
    run = _lock_run(session, run_id)
    if run.state not in FINISHED:
        raise ForbiddenTransition(run_id, run.state, "deleted; cancel it first")
    in_study = or_(StudyCell.run_id == run_id, StudyCell.evaluation_id == run_id)
    study = session.scalars(select(StudyCell.study_id).where(in_study).limit(1)).one_or_none()
    if study is not None:
        raise Conflict(f"run {run_id} stands in the table of study {study}; delete the study first")
    # a dependent that waits or is paused still needs the final state of its predecessor
    dependents = select(Run.id).join(Predecessor, Predecessor.run_id == Run.id).where(Predecessor.after_id == run_id)
    waits = Run.state.in_([State.WAITING.value, State.PAUSED.value])
    if (waiting := session.scalars(dependents.where(waits).limit(1)).first()) is not None:
        raise Conflict(f"run {waiting} comes after {run_id} and still waits; cancel that first")
    # a run that starts from a checkpoint of this one needs it until it has one of its own
    unfinished = Run.state.not_in(FINISHED), Run.kind == "pretrain", Run.checkpoint.is_(None)
    starts_from_it = Run.spec[("branch", "run")].as_string() == run_id
    starting = session.scalars(select(Run.id).where(*unfinished, starts_from_it).order_by(Run.id).limit(1)).first()
    if starting is not None:
        message = f"run {starting} starts from a checkpoint of {run_id} and has none of its own yet"
        raise Conflict(f"{message}; cancel that first, or wait for its first checkpoint")
    session.delete(run)
    forget_checkpoints(session, run_id)
    discard(session, STORE, f"checkpoints/{run_id}")
    for path in (f"runs/{run_id}", *output_paths(run_id)):  # an output that no row names was not registered
        discard_folder(session, path)


def _unclaimed_state(session: Session, run: Run) -> State:
    """State of a run without a lease: queued, or waiting for a predecessor."""
    query = select(Run.id).join(Predecessor, Predecessor.after_id == Run.id)
    unfinished = query.where(Predecessor.run_id == run.id, Run.state != State.SUCCEEDED.value)
    return State.QUEUED if session.scalars(unfinished.limit(1)).first() is None else State.WAITING


def _requeue(session: Session, run_id: str, from_scratch: bool) -> Run:
    run, moment = _lock_run(session, run_id), now(session)
    if run.state not in FINISHED:  # the state machine allows running to queued, for leases
        way_out = "; resume lets it go on" if run.state == State.PAUSED else ""
        raise ForbiddenTransition(run_id, run.state, f"queued again before it is cancelled or has failed{way_out}")
    return transition(
        run,
        _unclaimed_state(session, run),
        queued_at=moment,
        ready_at=moment,
        **dict.fromkeys(("started_at", "finished_at", "reason", "interruption", "result", "setbacks")),
        # a retry that never started is still from scratch after a resume
        from_scratch=from_scratch or run.from_scratch,
        restarts=run.restarts + from_scratch,
    )


def _lock_run(session: Session, run_id: str) -> Run:
    run = session.scalars(select(Run).where(Run.id == run_id).with_for_update(of=Run)).one_or_none()
    return run or get_run(session, run_id)


def blocked_reasons(session: Session, runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """{run id: {"code", "message"}} of the queued runs that no live worker can start now, even with a free slot.

    ``devices_busy``: they start when other runs release devices. With any other code a worker is missing.
    """
    queued = [run for run in runs if run.state == State.QUEUED]
    if not queued:
        return {}
    workers = live_workers(session, now(session))
    taken = set(leased_devices(session)) if any(worker.devices for worker in workers) else set()
    reasons = {run.id: _blocked_reason(run, workers, taken) for run in queued}
    return {run_id: {"code": reason[0], "message": reason[1]} for run_id, reason in reasons.items() if reason}


def _blocked_reason(run: Run, workers: Sequence[LiveWorker], taken: set[str]) -> tuple[str, str] | None:
    """Code and message; ``taken``: devices that other runs have."""
    if not workers:
        return "no_worker", "no worker is alive; start one, and the run begins by itself"
    serving = [worker for worker in workers if can_serve(worker.offers, run.resource)]
    if not serving:
        return "no_resource", f"no worker offers {run.resource}; {_REMEDIES[run.resource]}"
    if any(worker.has_engine for worker in serving):
        return None  # its cluster may have any number of nodes and GPUs
    if run.nodes > 1:
        return "no_engine", f"the run takes {run.nodes} nodes; {ENGINES_NEEDED}"
    able = [worker for worker in serving if needed_devices(run, worker.size) <= worker.size]
    if not able:
        largest = max(worker.size for worker in serving)
        message = f"the run needs {_gpus(run.gpus)} on one machine; the largest worker offers {largest}"
        return "too_few_gpus", f"{message}; start a larger one, or submit it again with fewer"
    free = [capacity([device for device in worker.devices if device not in taken]) for worker in able]
    if any(needed_devices(run, worker.size) <= number for worker, number in zip(able, free, strict=True)):
        return None
    message = f"waits for {_gpus(run.gpus)}; the worker with the most free ones has {max(free)}"
    return "devices_busy", f"{message}. It begins when other runs end"


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def estimate_run(session: Session, spec: AnySpec, resource: str | None = None, owner: str | None = None) -> RunEstimate:
    """Time, memory, FLOPs and disk of a run before its submission, from measured runs of ``owner`` (None: of all).

    ``resource`` None: a GPU if a worker alive has one.
    """
    if not isinstance(spec, PretrainSpec):
        raise UserError("only runs of kind pretrain are estimated", field="kind")
    return estimate_pretrainings(session, [spec], resource, owner)[0]


def estimate_pretrainings(
    session: Session, specs: Sequence[PretrainSpec], resource: str | None = None, owner: str | None = None
) -> list[RunEstimate]:
    """``estimate_run`` for each spec, with the measured runs read once."""
    alive = session.scalars(select(Worker.offers).where(Worker.seen_at >= now(session) - ALIVE_WITHIN))
    has_gpu = any("gpu" in offers for offers in alive)
    device: Device = "gpu" if resource == "gpu" or (has_gpu and resource is None) else "cpu"
    measured = _measured_runs(session, device, has_gpu, owner)
    return [estimate_pretraining(spec, measured, device) for spec in specs]


def _measured_runs(session: Session, device: Device, has_gpu: bool, owner: str | None) -> list[MeasuredRun]:
    """Newest first. A run of the class "any device" is assumed to have had a GPU if a worker has one."""
    classes = {device} if has_gpu and device == "cpu" else {device, ANY_DEVICE}
    query = (
        select(Run.id, Run.spec, Run.result)
        .where(Run.kind == "pretrain", Run.resource.in_(classes), Run.state == State.SUCCEEDED.value)
        .order_by(Run.id.desc())
    )
    if owner is not None:
        query = query.where(Run.owner == owner)
    rows = session.execute(query.limit(ESTIMATE_FROM_RUNS)).tuples()
    measured = (measured_run(run_id, spec, result or {}) for run_id, spec, result in rows)
    return [run for run in measured if run is not None]
