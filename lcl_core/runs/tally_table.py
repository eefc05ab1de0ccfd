"""The table of counters. They outlive the runs that they counted: a deleted run makes no figure smaller."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class Tally(Base):
    """One counter, or one bucket of a histogram."""

    __tablename__ = "tally"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    labels: Mapped[str] = mapped_column(String(200), primary_key=True)  # JSON, keys sorted
    bound: Mapped[str] = mapped_column(String(20), primary_key=True)  # upper bound of the bucket; "" of a counter
    count: Mapped[int] = mapped_column(BigInteger)  # what fell into this bucket alone
    total: Mapped[float]  # the sum of it
