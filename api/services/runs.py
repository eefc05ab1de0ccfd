"""Runs: validation of a submission, rows as responses, and wake-ups of workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.schemas.base import RunView
from lcl_core.common.errors import UserError
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.db import datasets, outbox, pgvector, registry
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Metric, Run
from lcl_core.db.wakeup import WakeupProducer
from lcl_core.specs.corpus_jobs import IndexSpec
from lcl_core.specs.parsing import AnySpec, collections_of, data_paths, dataset_fields, encoders_of, parse_spec


def validate_submission(session: Session, kind: str, value: dict[str, Any], roots: Sequence[Root]) -> AnySpec:
    """The parsed spec, everything that it reads being registered.

    ``roots``: what a path in it may lie in, or a URL below.

    Raises: Problem 422 with the dotted field of the spec; UserError ``pgvector_unavailable``, ``encoder_mismatch``.
    """
    try:
        spec = parse_spec(kind, value)
    except UserError as error:
        raise Problem(422, error.code, error.message, field=error.field) from error
    for field, look_up, name in _references(spec, roots):
        try:
            look_up(session, name)
        except UserError as error:
            raise Problem(422, error.code, error.message, field=field) from error
    _check_collection_encoder(session, spec)
    if isinstance(spec, IndexSpec) and spec.index == "pgvector":
        pgvector.require_pgvector(session)
    return spec


def _check_collection_encoder(session: Session, spec: AnySpec) -> None:
    """Raises: UserError ``encoder_mismatch`` when a collection is to be added to with another encoder than its own."""
    for name in collections_of(spec):
        encoder = registry.get_encoder(session, encoders_of(spec)[0])
        registry.check_collection_encoder(session, registry.get_collection(session, name), encoder)


def _references(spec: AnySpec, roots: Sequence[Root]) -> Iterator[tuple[str, Any, str]]:
    """(field, how to find it, name) of everything that the spec reads."""
    for field, name in dataset_fields(spec).items():
        yield field, datasets.get_dataset, name
    for name in encoders_of(spec):
        yield "encoder", registry.get_encoder, name
    for name in collections_of(spec):
        yield "collection", registry.get_collection, name
    for field, path in data_paths(spec).items():
        yield field, lambda _, path: resolve_allowed(path, roots), path


_COMPUTED_FIELDS = ("tags", "after", "obstacle", "artifacts")


def run_view(session: Session, run: Run) -> RunView:
    return run_views(session, [run])[0]


def run_views(session: Session, runs: Sequence[Run]) -> list[RunView]:
    """With each queued run, why no worker can take it, if so; with one that has ended, what keeps its files."""
    found = db_runs.blocked_reasons(session, runs)
    begun = [run.id for run in runs if run.started_at is not None]
    pending = outbox.runs_with_pending_uploads(session, begun) if begun else {}
    return [
        _run_view(run, found.get(run.id), _pending_artifacts(pending[run.id]) if run.id in pending else None)
        for run in runs
    ]


def _run_view(run: Run, obstacle: dict[str, str] | None, artifacts: dict[str, str] | None) -> RunView:
    facts = {name: getattr(run, name) for name in RunView.model_fields if name not in _COMPUTED_FIELDS}
    return RunView(tags=list(run.tags), after=list(run.after), obstacle=obstacle, artifacts=artifacts, **facts)


def _pending_artifacts(error: str | None) -> dict[str, str]:
    why = f"; the last try failed: {error}" if error else ""
    message = f"its files are on the machine that made them and are being sent to the store{why}"
    return {"code": "artifacts_pending", "message": message}


def metric_line(row: Metric) -> dict[str, Any]:
    """The line as the trainer wrote it; ``id`` is what to ask ``after``."""
    return {**row.values, "id": row.id}


def evaluation_figures(session: Session, encoder_id: str) -> list[dict[str, Any]]:
    """Every figure of an encoder's evaluations, newest evaluation first, each with where it comes from."""
    rows = []
    for run, found in db_runs.list_evaluations(session, encoder_id):
        digest = (run.result or {}).get("dataset_hash")
        origin = {"run_id": run.id, "dataset": run.spec.get("dataset"), "dataset_hash": digest}
        rows += [{**row, **origin} for row in found]
    return rows


WAKEUPS_PER_INTERVAL = 4  # messages of one moment: a woken worker goes on to the next run by itself
WAKEUP_INTERVAL_SECONDS = 0.1
_MAX_PENDING = 64  # of a long rush the latest; whom no message reaches, workers find on their rounds
_JOIN_SECONDS = 5.0


class WakeupSender:
    """Rings the doorbell in a thread of its own: the first time at once, in a rush a few times a moment.

    Its thread starts with the first ring and ends with ``close``.
    """

    def __init__(self, doorbell: WakeupProducer) -> None:
        self._doorbell = doorbell
        self._waiting: deque[str] = deque(maxlen=_MAX_PENDING)
        self._lock = threading.Lock()
        self._rung, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    async def wake(self, run_ids: Iterable[str]) -> None:
        """Ring for runs whose rows are committed. A coroutine because it needs no thread of the framework's."""
        with self._lock:
            self._waiting.extend(run_ids)
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._work, name="ringer", daemon=True)
                self._thread.start()
        self._rung.set()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._rung.wait()
            self._send()
            self._closing.wait(WAKEUP_INTERVAL_SECONDS)

    def _send(self) -> None:
        """The messages of one moment; one that does not get through says that the broker is down."""
        with self._lock:
            due = [self._waiting.popleft() for _ in range(min(WAKEUPS_PER_INTERVAL, len(self._waiting)))]
            if not self._waiting:
                self._rung.clear()
        if not all(map(self._doorbell.wake, due)):
            with self._lock:
                self._waiting.clear()

    def close(self) -> None:
        """Send what waits, as far as a moment's messages go, and end the thread."""
        self._closing.set()
        self._rung.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)
            self._send()
