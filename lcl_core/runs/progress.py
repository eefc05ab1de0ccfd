"""What a supervisor reports while a run is at work. Every write is guarded by the claim's token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from lcl_core.runs.database import insert_into
from lcl_core.runs.leases import Claim, held
from lcl_core.runs.plain import plain
from lcl_core.runs.tables import Metric
from lcl_core.runs.tallies import ATTEMPTS, CLAIM_LATENCY, tally

_ROWS_A_STATEMENT = 500


def begin_attempt(
    session: Session,
    claim: Claim,
    *,
    encoder_id: str | None,
    from_scratch: bool,
    inputs: dict[str, Any] | None = None,
) -> None:
    """Note what the attempt starts from; one that starts over forgets what earlier attempts reported.

    The attempt and how long the run had waited for it are counted here: a claim must not wait for another's count.

    Raises: StaleLease.
    """
    run = held(session, claim)
    run.encoder_id = encoder_id
    run.inputs = inputs
    run.from_scratch = False
    if from_scratch:
        run.progress = None
        session.execute(delete(Metric).where(Metric.run_id == claim.run_id))
    tally(session, [ATTEMPTS.tick(kind=run.kind), CLAIM_LATENCY.tick(claim.waited_seconds, kind=run.kind)])


def note_interruption(session: Session, claim: Claim, notice: dict[str, Any]) -> None:
    """Say in the run's row what its attempt came upon, beside why the attempt before ended. Raises: StaleLease."""
    run = held(session, claim)
    before = f"{run.interruption['message']}; " if run.interruption else ""
    run.interruption = {"code": notice["code"], "message": f"{before}{notice['message']}"}


def record_metrics(session: Session, claim: Claim, lines: Sequence[dict[str, Any]], *, rewound: bool = False) -> None:
    """Copy metric lines to the database; the last one becomes the run's progress.

    A step that is there already is written over, never doubled. ``rewound`` says that ``lines`` is the whole
    file after the process cut it back to its checkpoint: what the database has beyond it is forgotten.

    Raises: StaleLease.
    """
    run = held(session, claim)
    if rewound:
        last = max((line["step"] for line in lines), default=-1)
        session.execute(delete(Metric).where(Metric.run_id == claim.run_id, Metric.step > last))
    rows = {}
    for line in lines:
        key = (str(line.get("phase") or "")[:60], line["step"])
        rows[key] = {"run_id": claim.run_id, "phase": key[0], "step": key[1], "values": plain(line)}
    _upsert(session, list(rows.values()))
    if lines:
        run.progress = plain(lines[-1])


def _upsert(session: Session, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        statement = insert_into(session, Metric).values(rows[start : start + _ROWS_A_STATEMENT])
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["run_id", "phase", "step"], set_={"values": statement.excluded["values"]}
            )
        )
