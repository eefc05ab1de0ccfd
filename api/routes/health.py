"""Is the process alive, does the service do its work, and figures for Prometheus. No key is asked for."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.answers import sends
from api.deps import ContextDep
from api.errors import REFUSALS
from api.models import Readiness
from api.readiness import look
from api.transactions import in_lane

router = APIRouter(tags=["service"], responses=REFUSALS)


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """This process answers; nothing else is asked, and no thread is needed for it."""
    return {"status": "ok"}


@router.get("/readyz", responses={200: {"model": Readiness}})
@in_lane("probing")
def ready(context: ContextDep) -> JSONResponse:
    """200 when database and disk work, the broker takes messages and a worker consumes them; else 503."""
    checks = look(context)
    failing = [name for name, check in checks.items() if not check.ok]
    answer = Readiness(ready=not failing, checks=checks).model_dump()
    if failing:
        message = "; ".join(f"{name}: {checks[name].detail}" for name in failing)
        answer["error"] = {"code": "not_ready", "message": message}
    return JSONResponse(answer, status_code=503 if failing else 200)


@router.get("/metrics", response_class=Response, responses=sends("text/plain"))
@in_lane("probing")
def metrics(context: ContextDep) -> Response:
    """Prometheus text format."""
    return Response(generate_latest(context.telemetry.registry), media_type=CONTENT_TYPE_LATEST)
