"""Everything that may be asked of the database of runs, under one name."""

from __future__ import annotations

from lcl_core.runs.artifacts import discard_run_dir
from lcl_core.runs.datasets import (
    confined,
    ensure_sample,
    get_dataset,
    list_datasets,
    list_versions,
    note_contents,
    register_dataset,
)
from lcl_core.runs.leases import (
    Claim,
    StaleLease,
    any_expired,
    claim_next,
    expire,
    hand_back,
    look,
    renew,
    waiting_since,
)
from lcl_core.runs.progress import begin_attempt, record_metrics
from lcl_core.runs.queries import (
    Page,
    count_by_state,
    figures_of,
    get_run,
    list_runs,
    list_workers,
    metrics_after,
)
from lcl_core.runs.registry import (
    Inputs,
    get_collection,
    get_encoder,
    list_collections,
    list_encoders,
    located,
    resolve_inputs,
)
from lcl_core.runs.settle import Cancelled, Failed, Outcome, Succeeded, settle
from lcl_core.runs.states import ForbiddenTransition, State
from lcl_core.runs.submission import submit
from lcl_core.runs.verbs import delete, request_cancel, resume, retry

__all__ = [
    "Cancelled",
    "Claim",
    "Failed",
    "ForbiddenTransition",
    "Inputs",
    "Outcome",
    "Page",
    "StaleLease",
    "State",
    "Succeeded",
    "any_expired",
    "begin_attempt",
    "claim_next",
    "confined",
    "count_by_state",
    "delete",
    "discard_run_dir",
    "ensure_sample",
    "expire",
    "figures_of",
    "get_collection",
    "get_dataset",
    "get_encoder",
    "get_run",
    "hand_back",
    "list_collections",
    "list_datasets",
    "list_encoders",
    "list_runs",
    "list_versions",
    "list_workers",
    "located",
    "look",
    "metrics_after",
    "note_contents",
    "record_metrics",
    "register_dataset",
    "renew",
    "request_cancel",
    "resolve_inputs",
    "resume",
    "retry",
    "settle",
    "submit",
    "waiting_since",
]
