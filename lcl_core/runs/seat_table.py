"""The table of places in runs that several machines work on together."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class Seat(Base):
    """One worker's place in a run of several nodes: it waits for the others, then works under the run's lease.

    A seat counts while its worker renews it; one of a lease that the run no longer has counts for nothing.
    """

    __tablename__ = "seat"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    worker: Mapped[str] = mapped_column(String(100), primary_key=True)
    token: Mapped[str] = mapped_column(String(40))  # by which its worker knows that it is still its own
    expires_at: Mapped[datetime]
    lease_token: Mapped[str | None] = mapped_column(String(40))  # of the attempt; None while it waits for the others
    number: Mapped[int | None]  # of the node; 0 is the one that holds the lease
    address: Mapped[str | None] = mapped_column(String(300))  # HOST:PORT where all meet; of node 0, once they may come
    ending: Mapped[dict[str, Any] | None]  # what came of its process: {} for an exit in order, else see seats.Loss
