"""The table of what owners keep in the service, in bytes."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class StoredBytes(Base):
    """A folder of the service, or what one owner added to a collection since its last index run."""

    __tablename__ = "stored_bytes"
    __table_args__ = (Index("ix_stored_bytes_owner_bytes", "owner", "bytes"),)

    path: Mapped[str] = mapped_column(String(200), primary_key=True)  # encoders/enc_…, additions/col_…/OWNER
    owner: Mapped[str] = mapped_column(String(100))
    bytes: Mapped[int] = mapped_column(BigInteger)
