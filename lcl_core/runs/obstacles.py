"""Why a queued run stays where it is although workers may have time: nobody alive can serve it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.kinds import ANY
from lcl_core.runs.database import moment_of
from lcl_core.runs.figures import SEEN_WITHIN
from lcl_core.runs.states import State
from lcl_core.runs.tables import Run, Worker

_WAY_OUT = {
    "cpu": "start one that does (LCL_WORKER_OFFERS), or submit the run again without asking for cpu",
    "gpu": "start one on a machine with a GPU, or submit the run again for cpu",
}


def obstacles(session: Session, runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """``{"code", "message"}`` by id, of those queued runs that no worker alive can take; the others only wait."""
    queued = [run for run in runs if run.state == State.QUEUED]
    if not queued:
        return {}
    alive = select(Worker.offers).where(Worker.seen_at >= moment_of(session) - SEEN_WITHIN)
    crew = session.scalars(alive).all()
    return {run.id: found for run in queued if (found := _obstacle(run, crew)) is not None}


def _obstacle(run: Run, crew: Sequence[list[str]]) -> dict[str, str] | None:
    able = [offers for offers in crew if run.resource in (*offers, ANY)]
    if not crew:
        return {"code": "no_worker", "message": "no worker is alive; start one, and the run begins by itself"}
    if not able:
        return {"code": "no_resource", "message": f"no worker offers {run.resource}; {_WAY_OUT[run.resource]}"}
    if len(able) < run.nodes:
        told = f"the run takes {run.nodes} workers at once, and only {len(able)} can serve it; start more of them"
        return {"code": "too_few_workers", "message": f"{told}, or submit it again with fewer engine.nodes"}
    return None
