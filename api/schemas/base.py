"""What goes over the wire. Specs themselves are ``lcl_core.specs``."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints

from lcl_core.db.submit import DEFAULT_MAX_ATTEMPTS
from lcl_core.jobs import Kind
from lcl_core.specs.base import Name

# No control characters: the database refuses NUL, a newline has no place in a name, and marks that turn the direction
# of writing make a name look like another.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$"
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d")
Line = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=PRINTABLE)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}$")]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=PRINTABLE)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Role = Literal["viewer", "submitter", "admin"]


def _check_iso_date(given: object) -> object:
    """Pydantic would take numbers, and numbers in texts, for seconds since 1970."""
    if isinstance(given, str) and ISO_DATE.match(given):
        return given
    raise ValueError("write a date and a time, such as 2030-01-01T00:00:00Z")


Timestamp = Annotated[datetime, Strict(False), BeforeValidator(_check_iso_date)]


class RequestModel(BaseModel):
    """A request: a field that nobody knows is an error, not a silent no-op; so is "yes" or 1 for true, or "1" for 1."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RunSubmission(RequestModel):
    kind: Kind
    spec: dict[str, Any] = Field(description="as GET /v1/specs/{kind} describes", examples=[{"preset": "sample"}])
    name: Line | None = None
    tags: list[Tag] = Field([], max_length=32)
    after: list[Reference] = Field([], max_length=32, description="ids of runs whose success it waits for")
    priority: int = Field(0, ge=-100, le=100, description="higher goes first")
    resource: Literal["cpu", "gpu"] | None = Field(None, description="what a worker must offer; none: any, by kind")
    max_attempts: int = Field(
        DEFAULT_MAX_ATTEMPTS, ge=1, le=100, description="workers that may be lost before it fails"
    )


class RowView(BaseModel):
    """Made from a row of the database."""

    model_config = ConfigDict(from_attributes=True)


class RunView(RowView):
    id: str
    kind: str
    name: str | None
    tags: list[str]
    state: str
    spec: dict[str, Any]
    reason: dict[str, Any] | None = Field(description="why it failed: code, message, field")
    interruption: dict[str, Any] | None = Field(
        description="why its last attempt ended unfinished, and what the present one found damaged: code, message"
    )
    progress: dict[str, Any] | None = Field(description="its last line of metrics")
    obstacle: dict[str, Any] | None = Field(None, description="why no worker can take it: code, message")
    result: dict[str, Any] | None
    attempt: int
    max_attempts: int
    priority: int
    resource: str = Field(description="cpu, gpu, or accelerator: a GPU where there is one")
    after: list[str] = Field(description="runs whose success it waits for")
    owner: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    encoder_id: str | None = None
    collection_id: str | None = None
    inputs: dict[str, Any] | None = Field(None, description="content hash of each dataset that it reads")
    study_id: str | None = Field(None, description="the study that submitted it")
    artifacts: dict[str, Any] | None = Field(
        None, description="while its files are not in the store of artifacts yet: code artifacts_pending, message"
    )


class RunPage(BaseModel):
    items: list[RunView]
    next_cursor: str | None


class ItemList(BaseModel):
    items: list[dict[str, Any]]


class LogChunk(BaseModel):
    text: str
    offset: int = Field(description="where to go on")
    size: int = Field(description="bytes of the log now")


class ArtifactView(BaseModel):
    name: str
    bytes: int
    modified_at: datetime
    sha256: str | None = Field(None, description="of what is in the store of artifacts")


class ArtifactList(BaseModel):
    items: list[ArtifactView]


class SpecView(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    json_schema: dict[str, Any] = Field(alias="schema")
    presets: dict[str, dict[str, Any]]


class CorpusPathRequest(RequestModel):
    path: PathText = Field(description="folder or zip on the server, or a URL of shards, inside its data roots")


class CorpusInputRequest(CorpusPathRequest):
    format: Annotated[str, StringConstraints(max_length=40)] = Field("auto", description="of what lies at path")
    options: dict[str, Any] = Field({}, description="of the format's reader")


class ValidationRequest(RequestModel):
    """How a corpus is to be validated; the spec of kind validate says what each field means."""

    workers: int | None = None
    tokens: bool = True
    similarity_threshold: float = 0.24
    min_image_side: int = 8


class PathValidationRequest(CorpusInputRequest, ValidationRequest):
    """The same for a corpus that is not registered."""


class DatasetRequest(CorpusPathRequest):
    name: Name
    new_version: bool = Field(False, description="a name that exists stands for this corpus from now on")


class DatasetView(RowView):
    name: str
    path: str
    owner: str
    content_hash: str | None
    statistics: dict[str, Any] | None
    created_at: datetime


class DatasetVersionView(RowView):
    version: int
    path: str
    content_hash: str
    statistics: dict[str, Any] | None
    owner: str
    run_id: str | None
    created_at: datetime


class DatasetVersionList(BaseModel):
    items: list[DatasetVersionView]


class DatasetList(BaseModel):
    items: list[DatasetView]


class DocumentPage(BaseModel):
    items: list[dict[str, Any]]
    total: int
    offset: int
    splits: list[str] = Field([], description="that a filter can ask for")
    sources: list[str] = Field([], description="the same")


class EncoderView(RowView):
    id: str
    name: str
    hash: str = Field(description="sha256 of the weights")
    identity: str | None = Field(description="sha256 over all files; null: of an older version, not looked at yet")
    owner: str
    run_id: str | None
    info: dict[str, Any]
    created_at: datetime


class EncoderList(BaseModel):
    items: list[EncoderView]


class EncoderImportRequest(RequestModel):
    name: Name
    path: PathText = Field(
        description="directory on the server, inside its data roots: of lcl, OpenCLIP, timm or Hugging Face"
    )
    allow_twin: bool = Field(
        False, description="though its weights are those of a known encoder and other files differ; for who owns that"
    )


class EncoderComparisonView(BaseModel):
    left: EncoderView
    right: EncoderView
    rows: list[dict[str, Any]]


class CollectionView(RowView):
    id: str
    name: str
    encoder_id: str | None
    encoder_hash: str
    dataset: str | None
    owner: str
    run_id: str | None
    images: int
    texts: int = Field(description="distinct captions; in the list, those of the last index run")
    dim: int
    changes: int = Field(description="pictures added, replaced and removed one by one, ever")
    vectors: str | None = Field(
        description="where PostgreSQL searches: its tables VECTORS_images and VECTORS_texts; null: files are searched"
    )
    created_at: datetime


class CollectionList(BaseModel):
    items: list[CollectionView]


class CollectionDetail(CollectionView):
    labels: dict[str, list[str]] = Field(description="what a filter can ask for")


class MapPointView(BaseModel):
    id: str
    x: float
    y: float
    caption: str
    labels: dict[str, str]


class CollectionMap(BaseModel):
    points: list[MapPointView] = Field(description="two principal components, within [-1, 1]")
    total: int


class DuplicateGroupView(BaseModel):
    size: int = Field(description="pictures that it holds")
    items: list[dict[str, Any]] = Field(
        description="the first 100 of them, each with its score: the cosine to the first"
    )


class DuplicatePage(BaseModel):
    groups: list[DuplicateGroupView] = Field(description="the largest first")
    total: int = Field(description="groups in all")
    offset: int
    threshold: float
    took_ms: float


class VectorPage(BaseModel):
    ids: list[str]
    vectors: list[list[float]]
    total: int
    offset: int


class MapPoint(BaseModel):
    id: str
    x: float = Field(description="first principal component of the vectors, all scaled together into -1 to 1")
    y: float = Field(description="second principal component")
    caption: str
    labels: dict[str, str]


class MapPage(BaseModel):
    points: list[MapPoint]
    total: int = Field(description="pictures in the collection; the points are an even choice of them")


class GpuUsageView(BaseModel):
    name: str
    utilization: float | None = Field(description="share of the time in which it computed, 0 to 1")
    memory_used: float | None = Field(description="bytes")
    memory_total: float | None = Field(description="bytes")


class WorkerView(RowView):
    id: str
    host: str
    pid: int
    slots: int
    devices: list[Any]
    offers: list[str] = Field(description="what runs may ask of it: cpu, gpu")
    gpus: list[GpuUsageView] = Field(description="what each GPU was doing when the worker was last seen")
    started_at: datetime
    seen_at: datetime
    consumed_at: datetime | None
    current_run: str | None


class WorkerList(BaseModel):
    items: list[WorkerView]


class KeyRequest(RequestModel):
    owner: Name
    role: Role
    expires: Timestamp | None = None


class KeyRotationRequest(RequestModel):
    grace_seconds: int = Field(86_400, ge=0, le=30 * 86_400, description="for which the old secret stays valid")


class KeyView(RowView):
    prefix: str
    owner: str
    role: str
    created_at: datetime
    last_used: datetime | None
    expires: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None = Field(description="until then the secret before the last rotation opens, too")


class NewKeyView(KeyView):
    key: str = Field(description="shown this once")


class KeyList(BaseModel):
    items: list[KeyView]


class AuditView(RowView):
    id: int
    at: datetime
    owner: str = Field(description="of the key that asked")
    prefix: str = Field(description="of that key")
    action: str
    object: str = Field(description="id or name of what was changed")
    request_id: str = Field(description="by which the service's log finds the request")


class AuditList(BaseModel):
    items: list[AuditView]
    next_cursor: str | None


class GarbageView(RowView):
    path: str = Field(description="relative to the service's home; with store/ before it, to the store of artifacts")
    bytes: int
    seen_at: datetime | None = Field(description="since when it is known; none: not noted yet")
    due: bool = Field(description="its grace is over")


class GarbageList(BaseModel):
    items: list[GarbageView]
    bytes: int


class QuotaView(BaseModel):
    owner: str
    runs: int = Field(description="that are not finished")
    runs_limit: int | None = Field(description="null: any number")
    bytes: int = Field(description="kept: runs, and what they made, imported or added")
    bytes_limit: int | None = Field(description="null: any number")


class QuotaList(BaseModel):
    items: list[QuotaView]


class CheckView(BaseModel):
    ok: bool
    detail: str


class ReadinessView(BaseModel):
    ready: bool
    checks: dict[str, CheckView]
