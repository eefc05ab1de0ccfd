"""The run for a spec: one that is there already, or a new one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.runs.states import State
from lcl_core.runs.submission import submit
from lcl_core.runs.tables import Dataset, Run, Study
from lcl_core.specs import AnySpec, datasets_of, spec_hash

BACKGROUND = -1  # priority of pre-trainings: runs that somebody submits by hand do not wait for a whole study
GOOD = (State.SUCCEEDED.value, State.RUNNING.value, State.QUEUED.value)  # the one that is furthest first


@dataclass(frozen=True)
class Wanted:
    """A run that a study needs.

    Attributes:
        continues: a run that a new one goes on from.
    """

    spec: AnySpec
    name: str
    continues: str | None = None


def runs_for(session: Session, study: Study, kind: str, wanted: Sequence[Wanted]) -> list[Run]:
    """For each a good run of the study's owner of the same spec on the same data, else a new one.

    The caller has the turn.
    """
    found = reusable(session, kind, [each.spec for each in wanted], study.owner)
    for each in wanted:
        key = spec_hash(kind, each.spec)
        if key not in found:
            found[key] = _submitted(session, study, kind, each)
    return [found[spec_hash(kind, each.spec)] for each in wanted]


def reusable(session: Session, kind: str, specs: Iterable[AnySpec], owner: str) -> dict[str, Run]:
    """{hash of a spec: a run of it that succeeded, or may still}; specs without one are left out.

    Only runs of ``owner``: whoever guesses a spec is not shown what came of it for somebody else.
    """
    wanted = {spec_hash(kind, spec): spec for spec in specs}
    query = select(Run).where(Run.kind == kind, Run.spec_hash.in_(wanted), Run.state.in_(GOOD), Run.owner == owner)
    present = dict(session.execute(select(Dataset.name, Dataset.content_hash)).tuples().all())
    found: dict[str, Run] = {}
    for run in sorted(session.scalars(query.order_by(Run.id)), key=lambda run: GOOD.index(run.state)):
        if run.spec_hash is not None and _read_the_same(run, wanted[run.spec_hash], present):
            found.setdefault(run.spec_hash, run)
    return found


def _submitted(session: Session, study: Study, kind: str, wanted: Wanted) -> Run:
    return submit(
        session,
        kind,
        wanted.spec,
        name=wanted.name,
        owner=study.owner,
        priority=BACKGROUND if kind == "pretrain" else 0,
        study_id=study.id,
        continues=wanted.continues,
    )


def _read_the_same(run: Run, spec: AnySpec, present: dict[str, str | None]) -> bool:
    """Whether the datasets hold now what they held when the run began, as far as both are known."""
    read = (run.inputs or {}).get("datasets", {})
    pairs = [(read.get(name), present.get(name)) for name in datasets_of(spec)]
    return all(before is None or now is None or before == now for before, now in pairs)
