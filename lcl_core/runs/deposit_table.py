"""The table of folders that are kept in the store of artifacts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class Deposit(Base):
    """A folder of some home of which a copy is in the store, or is to be."""

    __tablename__ = "deposit"
    __table_args__ = (Index("ix_deposit_holder_next_at", "holder", "next_at"),)

    path: Mapped[str] = mapped_column(String(200), primary_key=True)  # relative to home: runs/run_…, encoders/enc_…
    place: Mapped[str | None] = mapped_column(String(220))  # in the store, where all of ``files`` are
    files: Mapped[dict[str, Any] | None]  # {name: {"bytes", "sha256", "modified_at"}}
    pending: Mapped[int | None]  # the attempt whose files are not there yet; None: there is nothing to do
    holder: Mapped[str] = mapped_column(String(40))  # the home that has the newest of them, by its id
    next_at: Mapped[datetime]  # when sending may be tried (again)
    tries: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(String(500))  # why the last one failed
