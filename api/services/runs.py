"""Runs: validation of a submission, rows as responses, and wake-ups of workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Full, Queue
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json
from sqlalchemy.orm import Session

from api.core.auth import Principal
from api.core.errors import Problem
from api.schemas.runs import RunSubmission, RunView
from lcl_core.common.errors import UserError
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.common.settings import Settings
from lcl_core.db import artifacts, datasets, registry, submit
from lcl_core.db import runs as db_runs
from lcl_core.db.models import EncoderRow, Metric, Run
from lcl_core.db.runs import find_owned
from lcl_core.db.states import LEASED
from lcl_core.db.wakeup import WakeupProducer
from lcl_core.db.workers import leased_devices
from lcl_core.specs.corpus_jobs import IndexSpec
from lcl_core.specs.parsing import (
    AnySpec,
    parse_spec,
)
from lcl_core.vector_indexes import IndexLocation, check_index

if TYPE_CHECKING:
    from api.services.state import AppState


def validate_submission(session: Session, kind: str, value: dict[str, Any], settings: Settings) -> AnySpec:
    """Parse a spec, and check that everything it reads is registered or below one of the data roots.

    Raises: Problem 422 with the dotted field of the spec; UserError ``bad_spec``, ``encoder_mismatch``,
    ``invalid_value``, ``empty_source``, and that of an index that this service cannot make.
    """
    with problem_of_field():
        spec = parse_spec(kind, value)
    for field, find, name in _references(spec, settings.roots):
        with problem_of_field(field):
            find(session, name)
    for name in spec.references().collections.values():
        encoder = registry.get_encoder(session, spec.references().encoders["encoder"])
        registry.check_collection_encoder(session, registry.get_collection(session, name), encoder)
    if isinstance(spec, IndexSpec):
        check_index(spec.index, IndexLocation(settings=settings))
    datasets.check_tags(session, spec)
    datasets.check_views(session, spec)
    return spec


@contextmanager
def problem_of_field(field: str | None = None) -> Iterator[None]:
    """A UserError of the block as Problem 422 of ``field``; None: of the error's own."""
    try:
        yield
    except UserError as error:
        raise Problem(422, error.code, error.message, field=field or error.field) from error


def submit_run(state: AppState, session: Session, body: RunSubmission, principal: Principal, key: str | None) -> Run:
    """The new run, or the one that an earlier request with the same Idempotency-Key and body has made.

    Raises: as ``validate_submission``; Problem 403 ``forbidden``; UserError ``idempotency_conflict``.
    """
    owner, visible_owner = principal.owner, principal.visible_owner
    body_hash = submit.hash_body(body.model_dump())
    # before all checks of what is there now: a repeated request gets its run whatever has changed since
    run = submit.find_by_idempotency_key(session, Run, owner, key, body_hash)
    if run is not None:
        return run
    if body.priority > 0 and visible_owner is not None:
        message = "a priority above 0 is for admins; submit the run without it, or ask an admin to submit it"
        raise Problem(403, "forbidden", message, field="priority")
    spec = validate_submission(session, body.kind, body.spec, state.settings)
    registry.check_run_names(session, body.kind, spec, body.name, owner)
    with state.run_quota.admit(session, owner):
        return submit.submit(
            session,
            body.kind,
            spec,
            body.name,
            body.tags,
            owner,
            key,
            **body.model_dump(include={"priority", "max_attempts", "resource", "gpus"}),
            after=predecessor_ids(session, body.after, visible_owner),
            visible_to=visible_owner,
            body_hash=body_hash,
        )


def _references(spec: AnySpec, roots: Sequence[Root]) -> Iterator[tuple[str, Callable[..., object], str]]:
    """(field, lookup, name or path) of everything that the spec reads."""
    read = spec.references()
    for field, name in read.datasets.items():
        yield field, datasets.get_dataset, name
    for field, name in read.encoders.items():
        yield field, registry.get_encoder, name
    for field, name in read.collections.items():
        yield field, registry.get_collection, name
    for field, path in read.paths.items():
        yield field, lambda _, path: resolve_allowed(path, roots), path


def predecessor_ids(session: Session, references: Sequence[str], owner: str | None) -> list[str]:
    """Ids of the runs of ``after``, which are named by id or name. One that is not found stays as it is.

    Raises: Problem 422 ``ambiguous_name`` with the field ``after.INDEX``.
    """
    ids = []
    for index, reference in enumerate(references):
        try:
            ids.append(find_owned(session, Run, reference, owner).id)
        except UserError as error:
            if error.code == "ambiguous_name":
                raise Problem(422, error.code, error.message, field=f"after.{index}") from error
            ids.append(reference)  # the submission refuses it
    return ids


_NOT_COLUMNS = {"tags", "after", "obstacle", "artifacts", "devices"}


def run_view(session: Session, run: Run) -> RunView:
    return run_views(session, [run])[0]


def run_views(session: Session, runs: Sequence[Run]) -> list[RunView]:
    """Views with the reason why no worker can run a queued run, and with pending uploads of its files."""
    blocked = db_runs.blocked_reasons(session, runs)
    started = [run.id for run in runs if run.started_at is not None]
    pending = artifacts.runs_with_pending_uploads(session, started) if started else {}
    leased = leased_devices(session) if any(run.state in LEASED for run in runs) else {}
    views = []
    for run in runs:
        columns = {name: getattr(run, name) for name in RunView.model_fields.keys() - _NOT_COLUMNS}
        views.append(
            RunView(
                **columns,
                tags=list(run.tags),
                after=list(run.after),
                obstacle=blocked.get(run.id),
                devices=[device for device, run_id in leased.items() if run_id == run.id],
                artifacts=_missing_artifacts(pending[run.id]) if run.id in pending else None,
            )
        )
    return views


def _missing_artifacts(error: str | None) -> dict[str, str]:
    why = f"; the last try failed: {error}" if error else ""
    message = f"its files are on the machine that made them and are being sent to the store{why}"
    return {"code": "artifacts_pending", "message": message}


def metric_line(row: Metric) -> dict[str, Any]:
    """The line as the job wrote it, with ``id`` for the parameter ``after_id``."""
    return {**row.values, "id": row.id}


def metrics_json(lines: Iterable[tuple[int, str]]) -> bytes:
    """The body of an ``ItemList`` of metric lines, made one line at a time: a run may have 100,000.

    Args:
        lines: (id, stored JSON) of each line.
    """
    items = (to_json({**from_json(text), "id": line_id}, inf_nan_mode="null") for line_id, text in lines)
    return b'{"items":[' + b",".join(items) + b"]}"


def evaluation_figures(session: Session, encoder_id: str) -> list[dict[str, Any]]:
    """All metrics of an encoder's evaluations with their run and dataset, newest evaluation first."""
    rows = []
    for run, metrics in db_runs.list_evaluations(session, encoder_id):
        digest = (run.result or {}).get("dataset_hash")
        origin = {"run_id": run.id, "dataset": run.spec.get("dataset"), "dataset_hash": digest}
        rows += [{**row, **origin} for row in metrics]
    return rows


CARD_SOURCE = "model card: measured before the release with `python -m benchmarks`, not by this service"


def card_figures(encoder: EncoderRow) -> list[dict[str, Any]]:
    """Test figures of the model card of an encoder that came with the product; no run of this service measured them."""
    origin = {"run_id": None, "dataset": None, "dataset_hash": None, "source": CARD_SOURCE}
    return [{**row, **origin} for row in encoder.info.get("figures", ())]


MAX_PENDING_WAKEUPS = 64  # workers find the other runs when they poll


class WakeupSender:
    """Publishes wake-ups in a thread, so that a broker that is slow or away delays no request."""

    def __init__(self, producer: WakeupProducer) -> None:
        self._producer = producer
        self._runs: Queue[str | None] = Queue(MAX_PENDING_WAKEUPS)
        self._thread: threading.Thread | None = None

    async def wake(self, run_ids: Iterable[str]) -> None:
        """Publish runs whose rows are committed. A coroutine, so that no thread of the framework is needed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._publish, name="wakeups", daemon=True)
            self._thread.start()
        with suppress(Full):
            for run_id in run_ids:
                self._runs.put_nowait(run_id)

    def _publish(self) -> None:
        while (run_id := self._runs.get()) is not None:
            self._producer.wake(run_id)

    def close(self) -> None:
        """What is not published yet is lost: workers find the runs when they poll."""
        with suppress(Full):
            self._runs.put_nowait(None)
