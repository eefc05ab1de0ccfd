"""The table of what lies in a home, or in the store of artifacts, and no row names."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class Garbage(Base):
    """A folder that nothing names, and since when that is known to this database."""

    __tablename__ = "garbage"

    home: Mapped[str] = mapped_column(String(40), primary_key=True)  # its id; empty: the store of artifacts
    path: Mapped[str] = mapped_column(String(300), primary_key=True)  # relative to that
    seen_at: Mapped[datetime]
