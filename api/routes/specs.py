"""The specs' JSON schemas and presets, from which forms are made."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import Viewer
from api.errors import REFUSALS, Problem
from api.models import SpecView
from lcl_core.specs import SPECS, StudySpec, presets

KNOWN = {**SPECS, "study": StudySpec}
router = APIRouter(prefix="/v1/specs", tags=["specs"], responses=REFUSALS)


@router.get("/{kind}")
def one(kind: str, _: Viewer) -> SpecView:
    """JSON schema and named starting points of a kind of run, or of a study."""
    if kind not in KNOWN:
        raise Problem(404, "unknown_kind", f"kind {kind!r} is not known; choose from {', '.join(KNOWN)}", field="kind")
    return SpecView(json_schema=KNOWN[kind].model_json_schema(), presets=presets(kind))
