"""The tables of studies. What can be read from a study's runs, its state above all, is not stored again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class Study(Base):
    """What is compared, and whether somebody asked for its end."""

    __tablename__ = "study"
    __table_args__ = (UniqueConstraint("owner", "idempotency_key"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]]
    owner: Mapped[str] = mapped_column(String(100))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    body_hash: Mapped[str] = mapped_column(String(64))  # of the request that made it
    created_at: Mapped[datetime]
    cancelled_at: Mapped[datetime | None]


class StudyCell(Base):
    """A pre-training of a study and, once it has succeeded, the evaluation of its encoder: two ordinary runs.

    A run may belong to several studies, and is not deleted while it belongs to one.
    """

    __tablename__ = "study_cell"

    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # in the order of their making
    labels: Mapped[dict[str, Any]]  # {axis: variant}
    parameters: Mapped[dict[str, Any]]  # {field: value that a search drew}
    seed: Mapped[int]
    rung: Mapped[int]
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), index=True)
    evaluation_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
