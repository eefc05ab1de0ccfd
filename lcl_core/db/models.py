"""All tables of the database. Times are aware and UTC; paths are absolute, or relative to the home folder.

``new_id`` makes primary keys that sort by creation time: pages in that order need no other index.
"""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

from lcl_core.db.session import UtcTime
from lcl_core.db.states import State
from lcl_core.jobs import ANY_DEVICE, JOBS

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcTime, dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012 (never changed)


_ID_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, in ASCII order
_ID_LENGTH, _ID_RANDOM_BITS = 18, 38


def new_id(prefix: str) -> str:
    """``PREFIX_`` and 18 digits: 52 bits of microseconds since 1970, then 38 random bits."""
    value = (time.time_ns() // 1000) << _ID_RANDOM_BITS | secrets.randbits(_ID_RANDOM_BITS)
    digits = [_ID_DIGITS[(value >> (5 * digit)) & 31] for digit in reversed(range(_ID_LENGTH))]
    return f"{prefix}_{''.join(digits)}"


# {folder of the home: prefix of the id} of the outputs of runs
OUTPUT_FOLDERS = {kind.output.folder: kind.output.id_prefix for kind in JOBS.values() if kind.output is not None}

UPLOADS_FOLDER, UPLOAD_PREFIX = "data/uploads", "upl"  # of the home: corpora that clients sent, a folder for each


def output_id(prefix: str, run_id: str) -> str:
    """Id of the output of a run, the same for every attempt."""
    return f"{prefix}_{run_id.partition('_')[2]}"


class RunTag(Base):
    """A tag of a run. ``owner`` is the run's, so that a page of one owner and tag is one range of the index."""

    __tablename__ = "run_tag"
    __table_args__ = (Index("ix_run_tag_tag_owner_run_id", "tag", "owner", "run_id"),)

    tag: Mapped[str] = mapped_column(String(100), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, index=True)
    owner: Mapped[str] = mapped_column(String(100))


class Predecessor(Base):
    """``run_id`` waits for the success of ``after_id``. Both exist when the row is written, so there are no circles."""

    __tablename__ = "predecessor"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    after_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, index=True)


_QUEUED = "state = 'queued'"
# all columns by which a claim chooses a run; SQLite reads the index only if it begins with the state and the priority
_QUEUE_COLUMNS = (
    *("state", "priority", "queued_at", "id", "owner", "resource", "gpus", "nodes", "ready_at", "reserved_by"),
)
_HANDLE_ORDER = ("state", "nodes", "id")
_HAS_HANDLE = "handle IS NOT NULL"


class Run(Base):
    """One job: its request (``kind``, ``spec``), its state, and the lease of the worker that runs it."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        Index("ix_run_state_id", "state", "id"),
        Index("ix_run_state_kind_id", "state", "kind", "id"),
        Index("ix_run_kind_id", "kind", "id"),
        Index("ix_run_encoder_id_kind", "encoder_id", "kind"),
        Index("ix_run_owner_id", "owner", "id"),
        Index("ix_run_state_owner_id", "state", "owner", "id"),
        Index("ix_run_owner_kind_id", "owner", "kind", "id"),
        Index("ix_run_lease_owner", "lease_owner"),
        Index("ix_run_spec_hash", "spec_hash"),
        Index("ix_run_name_owner_id", "name", "owner", "id"),
        Index("ix_run_queue", *_QUEUE_COLUMNS, postgresql_where=text(_QUEUED), sqlite_where=text(_QUEUED)),
        Index("ix_run_handles", *_HANDLE_ORDER, postgresql_where=text(_HAS_HANDLE), sqlite_where=text(_HAS_HANDLE)),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(100))
    notes: Mapped[str | None] = mapped_column(Text)  # of its owner, about what it found
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(100))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    body_hash: Mapped[str] = mapped_column(String(64))

    state: Mapped[str] = mapped_column(String(20), default=State.QUEUED.value)
    reason: Mapped[dict[str, Any] | None]  # {"code", "message", "field"?, "file"?, "line"?}
    interruption: Mapped[dict[str, Any] | None]  # {"code", "message", …}: why its last attempt ended unfinished
    progress: Mapped[dict[str, Any] | None]  # last line of metrics
    result: Mapped[dict[str, Any] | None]
    encoder_id: Mapped[str | None] = mapped_column(String(40))  # its output, or the encoder that it evaluates
    collection_id: Mapped[str | None] = mapped_column(String(40))
    # {"datasets": {name: content hash}, "encoders": {id: weights hash}, "folders": [stored path]}: what it reads
    inputs: Mapped[dict[str, Any] | None]
    # the study that submitted it; other studies may use the run too
    study_id: Mapped[str | None] = mapped_column(ForeignKey("study.id", ondelete="SET NULL"), index=True)

    priority: Mapped[int] = mapped_column(default=0)  # higher runs first
    # one of RESOURCE_CLASSES: which workers may claim it
    resource: Mapped[str] = mapped_column(String(20), default=ANY_DEVICE)
    nodes: Mapped[int] = mapped_column(default=1)
    gpus: Mapped[int] = mapped_column(default=1)  # of each worker that runs it on GPUs; 0: of the class cpu
    # worker that keeps its GPUs for this queued run until enough of them are free
    reserved_by: Mapped[str | None] = mapped_column(String(100))
    attempt: Mapped[int] = mapped_column(default=0)  # 1 during the first attempt
    # so many workers lost without a new checkpoint between fail the run
    max_attempts: Mapped[int] = mapped_column(default=3)
    setbacks: Mapped[dict[str, Any] | None]  # leases.Setbacks; None: no attempt was lost since the last new checkpoint
    checkpoint: Mapped[str | None] = mapped_column(String(100))  # name of the newest; later ones are greater
    from_scratch: Mapped[bool] = mapped_column(default=False)  # the next attempt ignores the checkpoints
    restarts: Mapped[int] = mapped_column(default=0)  # folders from before the last are emptied
    ran_seconds: Mapped[float] = mapped_column(default=0.0)  # of all attempts

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]  # its order among runs of one priority
    ready_at: Mapped[datetime]  # since when a worker may claim it
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    lease_token: Mapped[str | None] = mapped_column(String(40))
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_expires_at: Mapped[datetime | None]
    # how another worker finds its processes: {"executor", …, "unwanted"?}, see leases; None: they end with their worker
    handle: Mapped[dict[str, Any] | None]

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
    """One line of ``metrics.jsonl``. ``id`` increases: a reader passes the last id that it has."""

    __tablename__ = "metric"
    __table_args__ = (
        UniqueConstraint("run_id", "phase", "step"),
        Index("ix_metric_run_id_id", "run_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    phase: Mapped[str] = mapped_column(String(60), default="")
    step: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"))  # of some jobs: records
    values: Mapped[dict[str, Any]]


class DeviceRow(Base):
    """A GPU or MIG instance, by its UUID, and its last lease.

    A lease counts while its run has the lease of that token, so that nothing frees a device but the end of the lease.
    One row a device, whichever workers see it: two of them never lease it to two runs.
    """

    __tablename__ = "device"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)  # GPU-… or MIG-…
    run_id: Mapped[str | None] = mapped_column(String(40))
    token: Mapped[str | None] = mapped_column(String(40))  # of the run's lease
    # an api serves inference on it, and no run gets it; an api that is well extends it. None: no api does
    serving_until: Mapped[datetime | None]


class Worker(Base):
    """A worker process with a recent heartbeat."""

    __tablename__ = "worker"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    slots: Mapped[int] = mapped_column(default=1)
    devices: Mapped[list[Any]]  # names, such as "NVIDIA H100" or "cpu (2 cores)"
    offers: Mapped[list[Any]] = mapped_column(default=lambda: ["cpu"])  # of RESOURCES: which runs it may claim
    gpus: Mapped[list[Any]] = mapped_column(default=list)  # use of each GPU, see workers.record_heartbeat
    gpu_ids: Mapped[list[Any]] = mapped_column(default=list)  # devices that it may lease to runs
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]

    # derived from the leases, so the two cannot disagree
    current_run: Mapped[str | None] = column_property(
        select(Run.id)
        .where(Run.lease_owner == id, Run.lease_token.is_not(None))
        .order_by(Run.id)
        .limit(1)
        .correlate_except(Run)
        .scalar_subquery()
    )


class Study(Base):
    """A study: its spec, and when it was cancelled. Its state follows from its runs and is not stored."""

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
    """A pre-training run of a study and, once it has succeeded, the evaluation run of its encoder.

    A run may belong to several studies, and is not deleted while it belongs to one.
    """

    __tablename__ = "study_cell"

    study_id: Mapped[str] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # in order of creation
    labels: Mapped[dict[str, Any]]  # {axis: variant}
    parameters: Mapped[dict[str, Any]]  # {field: value sampled by the search}
    seed: Mapped[int]
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id"), index=True)
    evaluation_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)


class Dataset(Base):
    """A registered corpus, on disk or at a URL."""

    __tablename__ = "dataset"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    path: Mapped[str]
    owner: Mapped[str] = mapped_column(String(100))
    content_hash: Mapped[str | None] = mapped_column(String(64))
    statistics: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class DatasetVersion(Base):
    """A version of a dataset's contents; the newest equals the row of the dataset."""

    __tablename__ = "dataset_version"

    name: Mapped[str] = mapped_column(ForeignKey("dataset.name", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1, 2, 3 …
    path: Mapped[str]
    content_hash: Mapped[str] = mapped_column(String(64))
    statistics: Mapped[dict[str, Any] | None]
    owner: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime]


class DatasetTag(Base):
    """A tag of a document or captioned image of a dataset, while its contents have this hash."""

    __tablename__ = "dataset_tag"

    dataset: Mapped[str] = mapped_column(ForeignKey("dataset.name", ondelete="CASCADE"), primary_key=True)
    content_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    item: Mapped[str] = mapped_column(String(300), primary_key=True)  # its location: FILE:LINE, or a record's number
    tag: Mapped[str] = mapped_column(String(100), primary_key=True)


class EncoderRow(Base):
    """An encoder: the output of a run, or an imported one of any format."""

    __tablename__ = "encoder"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), index=True)  # a name refers to the newest encoder that has it
    path: Mapped[str]
    hash: Mapped[str] = mapped_column(String(64))  # sha256 of its weights
    identity: Mapped[str] = mapped_column(String(64), index=True)  # hash of all files that determine its vectors
    owner: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    info: Mapped[dict[str, Any]]  # parameters, images_seen, steps, seconds …; files: {name: sha256}
    pinned: Mapped[bool] = mapped_column(default=False)  # offered first by every form
    created_at: Mapped[datetime]


class CollectionRow(Base):
    """A searchable collection of embedded images and captions."""

    __tablename__ = "collection"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    path: Mapped[str]
    encoder_id: Mapped[str | None] = mapped_column(ForeignKey("encoder.id", ondelete="SET NULL"), index=True)
    encoder_hash: Mapped[str] = mapped_column(String(64))  # sha256 of the weights, as in the directory
    encoder_identity: Mapped[str] = mapped_column(String(64))  # an encoder of equal identity may replace it
    dataset: Mapped[str | None] = mapped_column(String(100))
    owner: Mapped[str] = mapped_column(String(100))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    images: Mapped[int]  # including changes
    texts: Mapped[int]  # of the directory alone
    dim: Mapped[int]
    # name of its index (lcl_core/vector_indexes.py); None: the files of the directory
    vectors: Mapped[str | None] = mapped_column(String(40))
    changes: Mapped[int] = mapped_column(default=0)  # number of the last change
    created_at: Mapped[datetime]


class CollectionChange(Base):
    """The last change of one item. ``number`` is its position among the changes of the collection."""

    __tablename__ = "collection_change"
    __table_args__ = (Index("ix_collection_change_collection_id_number", "collection_id", "number", unique=True),)

    collection_id: Mapped[str] = mapped_column(ForeignKey("collection.id", ondelete="CASCADE"), primary_key=True)
    item: Mapped[str] = mapped_column(String(20), primary_key=True)  # img_…
    number: Mapped[int]
    record: Mapped[dict[str, Any] | None]  # None: the item was removed, and the columns below are None
    picture: Mapped[bytes | None] = mapped_column(LargeBinary)  # thumbnail; None: the directory's image is kept
    vector: Mapped[bytes | None] = mapped_column(LargeBinary)  # little-endian f32 [E]
    text_vectors: Mapped[bytes | None] = mapped_column(LargeBinary)  # of its captions: f32 [m, E]


class ApiKey(Base):
    """A key is ``PREFIX.SECRET``, of which only the secret's hash is stored."""

    __tablename__ = "api_key"

    prefix: Mapped[str] = mapped_column(String(20), primary_key=True)
    hash: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(20))  # viewer < submitter < admin
    owner: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    last_used: Mapped[datetime | None]
    expires: Mapped[datetime | None]
    # made from the settings: a start with other settings removes it
    configured: Mapped[bool] = mapped_column(default=False)


class AuditEntry(Base):
    """One change made through the API, written in the transaction of the change. Never altered; contains no secret."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_owner_id", "owner", "id"),
        Index("ix_audit_object_id", "object", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    at: Mapped[datetime]
    owner: Mapped[str] = mapped_column(String(100))  # of the API key
    prefix: Mapped[str] = mapped_column(String(20))  # of the API key
    action: Mapped[str] = mapped_column(String(60))  # such as runs.cancel
    object: Mapped[str] = mapped_column(String(200))  # id or name of the changed object
    request_id: Mapped[str] = mapped_column(String(64))  # as in the log; empty: at the start of the service


class Webhook(Base):
    """An address that receives a message when a run ends or pauses. Secrets are not in the database."""

    __tablename__ = "webhook"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[list[Any]]  # such as "run.succeeded"
    owner: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class WebhookDelivery(Base):
    """One message to one address: written in the transaction of the event, sent afterwards, at least once."""

    __tablename__ = "delivery"
    __table_args__ = (Index("ix_delivery_done_at_next_at", "done_at", "next_at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"), index=True)
    event: Mapped[str] = mapped_column(String(40))
    payload: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime]  # when it is due; while it is being sent, when another process may retry
    done_at: Mapped[datetime | None]  # when it was delivered or given up
    error: Mapped[str | None] = mapped_column(String(500))  # of the last attempt
    created_at: Mapped[datetime]


_PENDING = "pending IS NOT NULL"
_PREFIXES = {"path": "varchar_pattern_ops"}  # for LIKE; the primary key has the order of the collation


class ArtifactUpload(Base):
    """A folder of some home whose copy is in the artifact store, or is to be uploaded."""

    __tablename__ = "artifact_upload"
    __table_args__ = (
        Index(
            "ix_artifact_upload_pending",
            "holder",
            "next_at",
            postgresql_where=text(_PENDING),
            sqlite_where=text(_PENDING),
        ),
        Index("ix_artifact_upload_path", "path", postgresql_ops=_PREFIXES),
    )

    # relative to home: runs/run_…, encoders/enc_…; of a checkpoint: checkpoints/run_…/step_…
    path: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str | None] = mapped_column(String(220))  # key in the store, which has all of ``files``
    attempt: Mapped[int | None]  # of the run, that wrote these files
    files: Mapped[dict[str, Any] | None]  # {name: {"bytes", "sha256", "modified_at"}}
    pending: Mapped[int | None]  # attempt whose files are to be uploaded; None: nothing to do
    holder: Mapped[str] = mapped_column(String(40))  # id of the home that has the newest files
    enqueued_at: Mapped[datetime]
    next_at: Mapped[datetime]  # when the next upload may start
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(String(500))  # of the last upload


class Garbage(Base):
    """A folder, a copy in the store or an index on a server that no row names any more."""

    __tablename__ = "garbage"

    # id of the home that has it, or one of artifacts.STORE, SERVER, ANY_HOME
    home: Mapped[str] = mapped_column(String(40), primary_key=True)
    path: Mapped[str] = mapped_column(String(300), primary_key=True)  # relative to the home; name of the index
    seen_at: Mapped[datetime]  # since when
