"""Everything that may be asked of the database of runs, under one name."""

from __future__ import annotations

from lcl_core.runs.artifacts import discard_run_dir
from lcl_core.runs.audit import AuditPage, list_audit, note_action
from lcl_core.runs.carrying import carry, carry_all
from lcl_core.runs.changes import (
    Moved,
    Opened,
    Picture,
    Request,
    add_pictures,
    changes_since,
    delete_collection,
    picture_of,
    remove_picture,
    repeated,
)
from lcl_core.runs.claiming import claim_next
from lcl_core.runs.datasets import (
    ensure_sample,
    get_dataset,
    list_datasets,
    list_versions,
    note_contents,
    register_dataset,
)
from lcl_core.runs.deletion import delete_dataset, delete_encoder
from lcl_core.runs.deposits import check_there, deposit_of, expect, pending_runs
from lcl_core.runs.garbage import Leftover, collect, list_garbage, note_garbage, remove_garbage
from lcl_core.runs.handover import handed_collections
from lcl_core.runs.identities import (
    check_encoder_of,
    complete_identities,
    encoder_of,
    equal_encoders,
    lack_identities,
    note_files,
    registered_files,
)
from lcl_core.runs.leases import (
    Claim,
    StaleLease,
    any_expired,
    expire,
    hand_back,
    look,
    renew,
)
from lcl_core.runs.names import check_name, check_names_of_run
from lcl_core.runs.obstacles import obstacles
from lcl_core.runs.outlook import outlook
from lcl_core.runs.pgvector import require_pgvector
from lcl_core.runs.predecessors import any_due, release
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
from lcl_core.runs.queue import waiting_since
from lcl_core.runs.registry import (
    Inputs,
    dataset_place,
    encoders_with,
    get_collection,
    get_encoder,
    list_collections,
    list_encoders,
    located,
    resolve_inputs,
    service_paths,
)
from lcl_core.runs.repeats import hash_of
from lcl_core.runs.seats import (
    Call,
    Loss,
    SeatClaim,
    end_seat,
    leave_seat,
    look_at_seat,
    losses,
    open_meeting,
    renew_seat,
)
from lcl_core.runs.settle import Cancelled, Failed, Outcome, Succeeded, settle
from lcl_core.runs.states import ForbiddenTransition, State
from lcl_core.runs.studies.advance import advance_study, studies_due
from lcl_core.runs.studies.making import extend_study, make_study, plan_study
from lcl_core.runs.studies.reading import (
    StudyPage,
    get_study,
    list_studies,
    standings,
    study_cells,
    study_metrics,
    study_spec,
)
from lcl_core.runs.studies.verbs import cancel_study, delete_study, resume_study
from lcl_core.runs.submission import submit
from lcl_core.runs.supply import Supply
from lcl_core.runs.vector_tables import Neighbours, drop_vectors
from lcl_core.runs.verbs import delete, pause, request_cancel, resume, retry, unpause
from lcl_core.runs.welcome import welcome

__all__ = [
    "AuditPage",
    "Call",
    "Cancelled",
    "Claim",
    "Failed",
    "ForbiddenTransition",
    "Inputs",
    "Leftover",
    "Loss",
    "Moved",
    "Neighbours",
    "Opened",
    "Outcome",
    "Page",
    "Picture",
    "Request",
    "SeatClaim",
    "StaleLease",
    "State",
    "StudyPage",
    "Succeeded",
    "Supply",
    "add_pictures",
    "advance_study",
    "any_due",
    "any_expired",
    "begin_attempt",
    "cancel_study",
    "carry",
    "carry_all",
    "changes_since",
    "check_encoder_of",
    "check_name",
    "check_names_of_run",
    "check_there",
    "claim_next",
    "collect",
    "complete_identities",
    "count_by_state",
    "dataset_place",
    "delete",
    "delete_collection",
    "delete_dataset",
    "delete_encoder",
    "delete_study",
    "deposit_of",
    "discard_run_dir",
    "drop_vectors",
    "encoder_of",
    "encoders_with",
    "end_seat",
    "ensure_sample",
    "equal_encoders",
    "expect",
    "expire",
    "extend_study",
    "figures_of",
    "get_collection",
    "get_dataset",
    "get_encoder",
    "get_run",
    "get_study",
    "hand_back",
    "handed_collections",
    "hash_of",
    "lack_identities",
    "leave_seat",
    "list_audit",
    "list_collections",
    "list_datasets",
    "list_encoders",
    "list_garbage",
    "list_runs",
    "list_studies",
    "list_versions",
    "list_workers",
    "located",
    "look",
    "look_at_seat",
    "losses",
    "make_study",
    "metrics_after",
    "note_action",
    "note_contents",
    "note_files",
    "note_garbage",
    "obstacles",
    "open_meeting",
    "outlook",
    "pause",
    "pending_runs",
    "picture_of",
    "plan_study",
    "record_metrics",
    "register_dataset",
    "registered_files",
    "release",
    "remove_garbage",
    "remove_picture",
    "renew",
    "renew_seat",
    "repeated",
    "request_cancel",
    "require_pgvector",
    "resolve_inputs",
    "resume",
    "resume_study",
    "retry",
    "service_paths",
    "settle",
    "standings",
    "studies_due",
    "study_cells",
    "study_metrics",
    "study_spec",
    "submit",
    "unpause",
    "waiting_since",
    "welcome",
]
