"""The table of who did what."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class AuditEntry(Base):
    """One change that somebody asked for. Written with the change or not at all; never altered; holds no secret."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_owner_id", "owner", "id"),
        Index("ix_audit_object_id", "object", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    at: Mapped[datetime]
    owner: Mapped[str] = mapped_column(String(100))  # of the key that asked
    prefix: Mapped[str] = mapped_column(String(20))  # of that key
    action: Mapped[str] = mapped_column(String(60))  # such as runs.cancel
    object: Mapped[str] = mapped_column(String(200))  # id or name of what was changed
    request_id: Mapped[str] = mapped_column(String(64))  # by which the log finds the request; empty: at the start
