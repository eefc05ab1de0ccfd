"""Whoever submits runs for studies takes turns, so that no run is submitted twice."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

_LOCK = 0x6C636C73747564  # any constant: names the advisory lock on PostgreSQL


def take_turn(session: Session) -> None:
    """Wait for the others, and be alone until the transaction ends. What they committed is seen afterwards.

    On SQLite a transaction that may write is alone from its first word.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
