"""Liveness, readiness and Prometheus metrics, for which no key is needed; status for people."""

from __future__ import annotations

import os
import tempfile
import time

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

import lcl_core
from api.core.errors import ERROR_RESPONSES, FAULT_MESSAGES, documented_responses, error_object
from api.deps import StateDep, Viewer, in_thread_pool
from api.services.state import AppState
from lcl_core.common.errors import failure_code
from lcl_core.db import runs
from lcl_core.db.session import now
from lcl_core.db.workers import live_workers

router = APIRouter(tags=["service"], responses=ERROR_RESPONSES)
READINESS_SECONDS = 1.0  # for which checks are kept: each writes a file and publishes a message


class CheckView(BaseModel):
    ok: bool = Field(description="whether the check passed")
    detail: str = Field(description="what was found")


class StatusView(BaseModel):
    ready: bool = Field(description="whether every check passed")
    version: str = Field(description="of the service")
    database: str = Field(description="kind of database: sqlite or postgresql")
    checks: dict[str, CheckView] = Field(description="database, disk, broker and worker")
    workers: int = Field(description="workers seen lately")
    slots: int = Field(description="runs that they take at once")
    runs: dict[str, int] = Field(description="number of the caller's runs in each state, for an admin of all owners'")


class ReadinessView(BaseModel):
    ready: bool = Field(description="whether every check passed")
    checks: dict[str, CheckView] = Field(description="database, disk, broker and worker")
    loading: int = Field(0, description="encoders that are being loaded; does not count for ready")


def check_readiness(state: AppState) -> dict[str, CheckView]:
    """All checks by name, those of the last second if there were any: anybody may ask for them without a key."""
    with state.checking:
        if time.monotonic() - state.checked_at >= READINESS_SECONDS:
            try:
                with state.database.reading() as session:
                    alive = bool(live_workers(session, now(session)))
                detail = "gave a sign of life" if alive else "none gave a sign of life lately; start one"
                worker = CheckView(ok=alive, detail=detail)
                with state.database.session() as session:
                    session.connection()  # on SQLite it waits for the writer
                database = CheckView(ok=True, detail="answers")
            except SQLAlchemyError as error:
                database = CheckView(ok=False, detail=f"does not answer ({type(error).__name__})")
                worker = CheckView(ok=False, detail="cannot be known without the database")
            published = state.wakeup_producer.wake(None)
            broker = CheckView(ok=published, detail="takes messages" if published else "does not answer")
            state.checks = {"database": database, "disk": _check_disk(state), "broker": broker, "worker": worker}
            state.checked_at = time.monotonic()
        return state.checks


def _check_disk(state: AppState) -> CheckView:
    """Writes a small file in the home; a database that answers may be on a full disk."""
    home = state.settings.home
    try:
        with tempfile.TemporaryFile(dir=home, prefix=".probe-") as probe:
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        message = f"{{folder}} cannot be written to: {error.strerror}"
        if code := failure_code(error, home):
            message = FAULT_MESSAGES.get(code, message)
        return CheckView(ok=False, detail=message.format(folder=home))
    return CheckView(ok=True, detail="takes files")


@router.get("/healthz", summary="Check liveness")
async def alive() -> dict[str, str]:
    """This process answers. Needs no thread and no other service."""
    return {"status": "ok"}


@router.get("/readyz", summary="Check readiness", responses={200: {"model": ReadinessView}})
@in_thread_pool("slow")
def ready(state: StateDep) -> JSONResponse:
    """200 when database and disk work, the broker takes messages and a worker is alive; else 503.

    The checks are made at most once a second.
    """
    checks = check_readiness(state)
    failing = [name for name, check in checks.items() if not check.ok]
    answer = ReadinessView(ready=not failing, checks=checks, loading=state.loading_encoders()).model_dump()
    if failing:
        message = "; ".join(f"{name}: {checks[name].detail}" for name in failing)
        answer["error"] = error_object(503, "not_ready", message)
    return JSONResponse(answer, status_code=503 if failing else 200)


@router.get("/v1/status", summary="Get status")
@in_thread_pool("slow")
def status(principal: Viewer, state: StateDep) -> StatusView:
    """Version, database, workers and queue of the service; ready as ``/readyz`` has it."""
    checks = check_readiness(state)
    with state.database.reading() as session:
        workers = runs.list_workers(session)
        counts = runs.count_runs_by_state(session, principal.visible_owner)
    return StatusView(
        ready=all(check.ok for check in checks.values()),
        version=lcl_core.__version__,
        database=state.database.engine.dialect.name,
        checks=checks,
        workers=len(workers),
        slots=sum(worker.slots for worker in workers),
        runs=counts,
    )


@router.get(
    "/metrics", summary="Get service metrics", response_class=Response, responses=documented_responses("text/plain")
)
@in_thread_pool("slow")
def metrics(state: StateDep) -> Response:
    """Prometheus text format."""
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
