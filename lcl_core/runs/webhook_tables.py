"""The tables of webhooks: who wants to be told, and what is still to be said. No secret lies here."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class Webhook(Base):
    """An address that is told how runs end."""

    __tablename__ = "webhook"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[list[Any]]  # such as "run.succeeded"
    owner: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class Delivery(Base):
    """One message to one address: written in the transaction of what it tells, sent afterwards, at least once."""

    __tablename__ = "delivery"
    __table_args__ = (Index("ix_delivery_done_at_next_at", "done_at", "next_at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"), index=True)
    event: Mapped[str] = mapped_column(String(40))
    payload: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime]  # when it is to be sent; while it is being sent, when somebody else may try
    done_at: Mapped[datetime | None]  # delivered, or given up
    error: Mapped[str | None] = mapped_column(String(500))  # of the last attempt
    created_at: Mapped[datetime]
