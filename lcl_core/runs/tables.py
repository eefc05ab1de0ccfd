"""The tables. Times are aware and UTC; paths are absolute, or relative to the home folder."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint, func, or_, select
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from lcl_core.kinds import ANY
from lcl_core.runs.audit_tables import AuditEntry
from lcl_core.runs.base import Base
from lcl_core.runs.change_table import Addition, CollectionChange
from lcl_core.runs.deposit_table import Deposit
from lcl_core.runs.garbage_table import Garbage
from lcl_core.runs.seat_table import Seat
from lcl_core.runs.states import State
from lcl_core.runs.study_tables import Study, StudyCell
from lcl_core.runs.tally_table import Tally
from lcl_core.runs.webhook_tables import Delivery, Webhook

__all__ = [
    "Addition",
    "ApiKey",
    "AuditEntry",
    "Base",
    "Collection",
    "CollectionChange",
    "Dataset",
    "DatasetVersion",
    "Delivery",
    "Deposit",
    "Encoder",
    "Garbage",
    "Metric",
    "Predecessor",
    "Run",
    "RunTag",
    "Seat",
    "Study",
    "StudyCell",
    "Tally",
    "Webhook",
    "Worker",
]


class RunTag(Base):
    """``owner`` is the run's: an owner's page of a tag is read in order, and no one else's runs are looked at."""

    __tablename__ = "run_tag"
    __table_args__ = (Index("ix_run_tag_tag_owner_run_id", "tag", "owner", "run_id"),)

    tag: Mapped[str] = mapped_column(String(100), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, index=True)
    owner: Mapped[str] = mapped_column(String(100))


class Predecessor(Base):
    """A run that comes after another one; both are there when the row is made, so there are no circles."""

    __tablename__ = "predecessor"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    after_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, index=True)


class Run(Base):
    """One job: what is asked (``kind``, ``spec``), how it stands, and who holds it."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        Index("ix_run_queue", "state", "priority", "queued_at", "id"),
        Index("ix_run_state_id", "state", "id"),
        Index("ix_run_state_kind_id", "state", "kind", "id"),
        Index("ix_run_kind_id", "kind", "id"),
        Index("ix_run_encoder_id_kind", "encoder_id", "kind"),
        Index("ix_run_owner_id", "owner", "id"),
        Index("ix_run_owner_state_id", "owner", "state", "id"),
        Index("ix_run_owner_kind_id", "owner", "kind", "id"),
        Index("ix_run_lease_owner", "lease_owner"),
        Index("ix_run_spec_hash", "spec_hash"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str | None] = mapped_column(String(64))  # runs of older versions have none
    owner: Mapped[str] = mapped_column(String(100))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    body_hash: Mapped[str] = mapped_column(String(64))

    state: Mapped[str] = mapped_column(String(20), default=State.QUEUED.value)
    reason: Mapped[dict[str, Any] | None]  # {"code", "message", "field"?, "file"?, "line"?}
    interruption: Mapped[dict[str, Any] | None]  # {"code", "message"}: why its last attempt ended unfinished
    progress: Mapped[dict[str, Any] | None]  # the last line of metrics
    result: Mapped[dict[str, Any] | None]
    encoder_id: Mapped[str | None] = mapped_column(String(40))  # the encoder it made, or the one it examined
    collection_id: Mapped[str | None] = mapped_column(String(40))
    inputs: Mapped[dict[str, Any] | None]  # {"datasets": {name: content hash}}, as they were when it began
    # the study that submitted it; others may show it too
    study_id: Mapped[str | None] = mapped_column(ForeignKey("study.id", ondelete="SET NULL"), index=True)
    continues: Mapped[str | None] = mapped_column(String(40))  # the run whose last checkpoint it begins with

    priority: Mapped[int] = mapped_column(default=0)  # higher goes first
    resource: Mapped[str] = mapped_column(String(20), default=ANY)  # one of CLASSES: which workers may take it
    nodes: Mapped[int] = mapped_column(default=1)  # workers that it takes, all or none
    attempt: Mapped[int] = mapped_column(default=0)  # 1 while the first worker is at it
    max_attempts: Mapped[int] = mapped_column(default=3)  # a worker lost in this attempt fails the run
    from_scratch: Mapped[bool] = mapped_column(default=False)  # the next attempt forgets the checkpoints
    ran_seconds: Mapped[float] = mapped_column(default=0.0)  # worked so far, all attempts

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]  # its place among those of its priority
    ready_at: Mapped[datetime | None]  # since when a worker may take it; None for runs of older versions
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    lease_token: Mapped[str | None] = mapped_column(String(40))
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_expires_at: Mapped[datetime | None]

    tag_rows: Mapped[list[RunTag]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, lazy="selectin", order_by=RunTag.tag
    )
    after_rows: Mapped[list[Predecessor]] = relationship(
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="selectin",
        order_by=Predecessor.after_id,
        foreign_keys=[Predecessor.run_id],
    )
    after: AssociationProxy[list[str]] = association_proxy(
        "after_rows", "after_id", creator=lambda run_id: Predecessor(after_id=run_id)
    )
    tags: AssociationProxy[list[str]] = association_proxy("tag_rows", "tag")


class Metric(Base):
    """One line of ``metrics.jsonl``. ``id`` grows: a reader asks for what came after the last it saw."""

    __tablename__ = "metric"
    __table_args__ = (
        UniqueConstraint("run_id", "phase", "step"),
        Index("ix_metric_run_id_id", "run_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    phase: Mapped[str] = mapped_column(String(60), default="")
    step: Mapped[int]
    values: Mapped[dict[str, Any]]


class Dataset(Base):
    """A corpus on disk, known by its name."""

    __tablename__ = "dataset"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    path: Mapped[str]
    owner: Mapped[str] = mapped_column(String(100))
    content_hash: Mapped[str | None] = mapped_column(String(64))
    statistics: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class DatasetVersion(Base):
    """What a dataset's name stood for from some moment on; the newest is what the dataset says now."""

    __tablename__ = "dataset_version"

    name: Mapped[str] = mapped_column(ForeignKey("dataset.name", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1, 2, 3 …
    path: Mapped[str]
    content_hash: Mapped[str] = mapped_column(String(64))
    statistics: Mapped[dict[str, Any] | None]
    owner: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime]


class Encoder(Base):
    """An encoder: one that a run made, or one of any origin that was imported."""

    __tablename__ = "encoder"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), index=True)  # the newest of a name answers to it
    path: Mapped[str]
    hash: Mapped[str] = mapped_column(String(64))  # sha256 of its weights
    # of all files that decide its vectors, see interop.identity; None: of an older version, not looked at yet
    identity: Mapped[str | None] = mapped_column(String(64), index=True)
    owner: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    info: Mapped[dict[str, Any]]  # parameters, images_seen, steps, seconds …; files: {name: sha256}
    created_at: Mapped[datetime]


class Collection(Base):
    """Embedded images and captions that can be searched."""

    __tablename__ = "collection"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    path: Mapped[str]
    encoder_id: Mapped[str | None] = mapped_column(ForeignKey("encoder.id", ondelete="SET NULL"), index=True)
    encoder_hash: Mapped[str] = mapped_column(String(64))  # of its weights, as the directory has it
    encoder_identity: Mapped[str | None] = mapped_column(String(64))  # by which an equal copy may stand in
    dataset: Mapped[str | None] = mapped_column(String(100))
    owner: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    images: Mapped[int]  # changes included
    texts: Mapped[int]  # of the directory
    dim: Mapped[int]
    # where PostgreSQL searches: how the names of its tables begin; None: the api does, in the directory
    vectors: Mapped[str | None] = mapped_column(String(40))
    changes: Mapped[int] = mapped_column(default=0)  # how many there ever were; who has seen so many has seen all
    created_at: Mapped[datetime]


class ApiKey(Base):
    """A key is ``PREFIX.SECRET``; only the secret's hash is kept, and for a grace that of the one before."""

    __tablename__ = "api_key"

    prefix: Mapped[str] = mapped_column(String(20), primary_key=True)
    hash: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(20))  # viewer < submitter < admin
    owner: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    last_used: Mapped[datetime | None]
    expires: Mapped[datetime | None]
    previous_hash: Mapped[str | None] = mapped_column(String(128))
    previous_until: Mapped[datetime | None]  # when the secret before stops to open anything
    rotated_at: Mapped[datetime | None]


class Worker(Base):
    """A worker process that is, or lately was, alive."""

    __tablename__ = "worker"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    slots: Mapped[int] = mapped_column(default=1)
    devices: Mapped[list[Any]]  # names, such as "NVIDIA H100" or "cpu (2 cores)"
    offers: Mapped[list[Any]] = mapped_column(default=lambda: ["cpu"])  # of RESOURCES: what runs may ask of it
    gpus: Mapped[list[Any]] = mapped_column(default=list)  # what each was doing when it was last seen, see roster.beat
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    consumed_at: Mapped[datetime | None]  # when it last took a message off the broker

    # what it holds now is read from leases and seats, so the two cannot disagree
    current_run: Mapped[str | None] = column_property(
        func.coalesce(
            select(Run.id)
            .where(Run.lease_owner == id, Run.lease_token.is_not(None))
            .order_by(Run.id)
            .limit(1)
            .correlate_except(Run)
            .scalar_subquery(),
            select(Seat.run_id)
            .join(Run, Run.id == Seat.run_id)
            .where(Seat.worker == id, or_(Seat.lease_token.is_(None), Seat.lease_token == Run.lease_token))
            .order_by(Seat.run_id)
            .limit(1)
            .correlate_except(Seat, Run)
            .scalar_subquery(),
        )
    )
