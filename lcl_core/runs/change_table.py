"""The tables of what was added to collections, or removed from them, since an index run wrote their directory."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from lcl_core.runs.base import Base


class CollectionChange(Base):
    """The last that happened to one picture; ``number`` is where it stands in the collection's count of changes."""

    __tablename__ = "collection_change"
    __table_args__ = (Index("ix_collection_change_collection_id_number", "collection_id", "number", unique=True),)

    collection_id: Mapped[str] = mapped_column(ForeignKey("collection.id", ondelete="CASCADE"), primary_key=True)
    item: Mapped[str] = mapped_column(String(20), primary_key=True)  # img_…
    number: Mapped[int]
    record: Mapped[dict[str, Any] | None]  # None: it was removed, and so is the rest
    picture: Mapped[bytes | None] = mapped_column(LargeBinary)  # as a gallery shows it
    vector: Mapped[bytes | None] = mapped_column(LargeBinary)  # little-endian f32 [E]
    text_vectors: Mapped[bytes | None] = mapped_column(LargeBinary)  # the same of its captions, row by row


class Addition(Base):
    """A request that added pictures, by which its repetition is known."""

    __tablename__ = "addition"
    __table_args__ = (UniqueConstraint("owner", "idempotency_key"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    collection_id: Mapped[str] = mapped_column(ForeignKey("collection.id", ondelete="CASCADE"), index=True)
    owner: Mapped[str] = mapped_column(String(100))
    idempotency_key: Mapped[str] = mapped_column(String(200))
    body_hash: Mapped[str] = mapped_column(String(64))
    items: Mapped[list[Any]]  # ids of the pictures
    created_at: Mapped[datetime]
