"""JSON schemas and presets of specs, and estimates of runs."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from api.core.errors import ERROR_RESPONSES, Problem
from api.core.session import single_thread_endpoint
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.runs import EstimateRequest, EstimateView, SpecView
from api.services.runs import validate_submission
from lcl_core.db import runs
from lcl_core.specs.parsing import SPECS
from lcl_core.specs.presets import presets
from lcl_core.specs.study import StudySpec

SPEC_MODELS = {**SPECS, "study": StudySpec}
router = APIRouter(prefix="/v1/specs", tags=["specs"], responses=ERROR_RESPONSES)


@router.get("/{kind}")
def one(kind: str, _: Viewer) -> SpecView:
    """JSON schema and presets of a kind of run, or of a study."""
    _check_kind(kind)
    return SpecView(json_schema=SPEC_MODELS[kind].model_json_schema(), presets=presets(kind))


@router.post("/{kind}/estimate")
@single_thread_endpoint
def estimate(
    kind: str, body: EstimateRequest, principal: Viewer, state: StateDep, session: ReadSessionDep
) -> EstimateView:
    """Time, memory, operations and disk of a pre-training, before it is submitted; nothing is queued.

    A spec is refused as its submission would be. Rates come from the runs that the principal may see.
    """
    _check_kind(kind)
    if kind != "pretrain":
        raise Problem(422, "not_estimated", f"runs of kind {kind} are not estimated, only pretrain is", field="kind")
    spec = validate_submission(session, kind, body.spec, state.settings.roots)
    return EstimateView.model_validate(asdict(runs.estimate_run(session, spec, body.resource, principal.visible_owner)))


def _check_kind(kind: str) -> None:
    """Raises: Problem 404."""
    if kind not in SPEC_MODELS:
        raise Problem(
            404, "unknown_kind", f"kind {kind!r} is not known; choose from {', '.join(SPEC_MODELS)}", field="kind"
        )
