"""What a run would take, from what the runs that were have told. Only reads."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.forecast import Forecast, Past, forecast, past_of
from lcl_core.kinds import ANY
from lcl_core.runs.database import now
from lcl_core.runs.figures import SEEN_WITHIN
from lcl_core.runs.tables import Run, Worker
from lcl_core.specs import AnySpec, PretrainSpec

LOOKED_AT = 200  # newest pre-trainings
Device = Literal["cpu", "gpu"]


def outlook(session: Session, spec: AnySpec, resource: str | None = None, owner: str | None = None) -> Forecast:
    """Time, memory, operations and disk of a run that is not submitted yet.

    Args:
        resource: ``cpu`` or ``gpu``, which the run would ask for; None: a GPU if a worker alive has one.
        owner: whose runs may be learnt from; None: everybody's.

    Raises: UserError ``not_estimated`` for anything but a pre-training.
    """
    if not isinstance(spec, PretrainSpec):
        raise UserError("only runs of kind pretrain are estimated", code="not_estimated", field="kind")
    there = _a_gpu_is_there(session)
    device: Device = "gpu" if resource == "gpu" or (there and resource is None) else "cpu"
    return forecast(spec, _pasts(session, device, there, owner), device)


def _a_gpu_is_there(session: Session) -> bool:
    alive = session.scalars(select(Worker.offers).where(Worker.seen_at >= now(session) - SEEN_WITHIN))
    return any("gpu" in offers for offers in alive)


def _pasts(session: Session, device: Device, gpu: bool, owner: str | None) -> list[Past]:
    """Newest first. Runs that took any device are taken to have had the best that is there."""
    classes = {device} if gpu and device == "cpu" else {device, ANY}
    columns = (Run.id, Run.spec, Run.resource, Run.progress, Run.result, Run.ran_seconds, Run.attempt)
    query = select(*columns).where(Run.kind == "pretrain", Run.resource.in_(classes)).order_by(Run.id.desc())
    if owner is not None:
        query = query.where(Run.owner == owner)
    found = session.execute(query.limit(LOOKED_AT)).tuples()
    pasts = (
        past_of(run_id, spec, resource, progress, result, ran if attempt == 1 else None)
        for run_id, spec, resource, progress, result, ran, attempt in found
    )
    return [past for past in pasts if past is not None]
