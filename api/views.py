"""Rows of the database as what goes over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from api.models import RunView
from lcl_core.runs import store
from lcl_core.runs.tables import Metric, Run

_MADE = ("tags", "after", "obstacle", "artifacts")


def run_view(session: Session, run: Run) -> RunView:
    return run_views(session, [run])[0]


def run_views(session: Session, runs: Sequence[Run]) -> list[RunView]:
    """With each queued run, why no worker can take it, if so; with one that has ended, what keeps its files."""
    found = store.obstacles(session, runs)
    begun = [run.id for run in runs if run.started_at is not None]
    pending = store.pending_runs(session, begun) if begun else {}
    return [_view(run, found.get(run.id), _on_its_way(pending[run.id]) if run.id in pending else None) for run in runs]


def _view(run: Run, obstacle: dict[str, str] | None, artifacts: dict[str, str] | None) -> RunView:
    facts = {name: getattr(run, name) for name in RunView.model_fields if name not in _MADE}
    return RunView(tags=list(run.tags), after=list(run.after), obstacle=obstacle, artifacts=artifacts, **facts)


def _on_its_way(error: str | None) -> dict[str, str]:
    why = f"; the last try failed: {error}" if error else ""
    message = f"its files are on the machine that made them and are being sent to the store{why}"
    return {"code": "artifacts_pending", "message": message}


def metric_line(row: Metric) -> dict[str, Any]:
    """The line as the trainer wrote it; ``id`` is what to ask ``after``."""
    return {**row.values, "id": row.id}


def figures(session: Session, encoder_id: str) -> list[dict[str, Any]]:
    """Every figure of an encoder's evaluations, newest evaluation first, each with where it comes from."""
    rows = []
    for run, found in store.figures_of(session, encoder_id):
        digest = (run.result or {}).get("dataset_hash")
        origin = {"run_id": run.id, "dataset": run.spec.get("dataset"), "dataset_hash": digest}
        rows += [{**row, **origin} for row in found]
    return rows
