"""Rows of the database as what goes over the wire."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from api.models import RunView
from lcl_core.runs import store
from lcl_core.runs.tables import Metric, Run


def run_view(run: Run) -> RunView:
    facts = {name: getattr(run, name) for name in RunView.model_fields if name != "tags"}
    return RunView(tags=list(run.tags), **facts)


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
