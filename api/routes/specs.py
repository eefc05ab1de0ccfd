"""The specs' JSON schemas and presets, from which forms are made, and what a run of one would take."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from api.admission import admit
from api.deps import ContextDep, ReaderDep, Viewer
from api.errors import REFUSALS, Problem
from api.estimate_models import EstimateRequest, EstimateView
from api.models import SpecView
from api.transactions import brief
from lcl_core.runs import store
from lcl_core.specs import SPECS, StudySpec, presets

KNOWN = {**SPECS, "study": StudySpec}
router = APIRouter(prefix="/v1/specs", tags=["specs"], responses=REFUSALS)


@router.get("/{kind}")
def one(kind: str, _: Viewer) -> SpecView:
    """JSON schema and named starting points of a kind of run, or of a study."""
    _check_kind(kind)
    return SpecView(json_schema=KNOWN[kind].model_json_schema(), presets=presets(kind))


@router.post("/{kind}/estimate")
@brief
def estimate(
    kind: str, body: EstimateRequest, caller: Viewer, context: ContextDep, session: ReaderDep
) -> EstimateView:
    """Time, memory, operations and disk of a pre-training, before it is submitted; nothing is queued.

    A spec is refused as its submission would be. Rates come from the runs that the caller may see.
    """
    _check_kind(kind)
    if kind != "pretrain":
        raise Problem(422, "not_estimated", f"runs of kind {kind} are not estimated, only pretrain is", field="kind")
    spec = admit(session, kind, body.spec, context.settings.roots)
    return EstimateView.model_validate(asdict(store.outlook(session, spec, body.resource, caller.sees)))


def _check_kind(kind: str) -> None:
    """Raises: Problem 404."""
    if kind not in KNOWN:
        raise Problem(404, "unknown_kind", f"kind {kind!r} is not known; choose from {', '.join(KNOWN)}", field="kind")
