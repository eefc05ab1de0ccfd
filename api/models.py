"""What goes over the wire. Specs themselves are ``lcl_core.specs``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from lcl_core.specs import Kind, Name

# No control characters: the database refuses NUL, and a newline has no place in a name.
Line = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}$")]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Role = Literal["viewer", "submitter", "admin"]


class Body(BaseModel):
    """A request: a field that nobody knows is an error, not a silent no-op."""

    model_config = ConfigDict(extra="forbid")


class Submission(Body):
    kind: Kind
    spec: dict[str, Any] = Field(description="as GET /v1/specs/{kind} describes", examples=[{"preset": "sample"}])
    name: Line | None = None
    tags: list[Tag] = Field([], max_length=32)


class View(BaseModel):
    """Made from a row of the database."""

    model_config = ConfigDict(from_attributes=True)


class RunView(View):
    id: str
    kind: str
    name: str | None
    tags: list[str]
    state: str
    spec: dict[str, Any]
    reason: dict[str, Any] | None = Field(description="why it failed: code, message, field")
    progress: dict[str, Any] | None = Field(description="its last line of metrics")
    result: dict[str, Any] | None
    attempt: int
    owner: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    encoder_id: str | None = None
    collection_id: str | None = None
    inputs: dict[str, Any] | None = Field(None, description="content hash of each dataset that it reads")


class RunPage(BaseModel):
    items: list[RunView]
    next_cursor: str | None


class Items(BaseModel):
    items: list[dict[str, Any]]


class LogPiece(BaseModel):
    text: str
    offset: int = Field(description="where to go on")
    size: int = Field(description="bytes of the log now")


class Artifact(BaseModel):
    name: str
    bytes: int
    modified_at: datetime


class ArtifactList(BaseModel):
    items: list[Artifact]


class SpecView(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    json_schema: dict[str, Any] = Field(alias="schema")
    presets: dict[str, dict[str, Any]]


class CorpusPath(Body):
    path: PathText = Field(description="folder or zip on the server, inside its data roots")


class CorpusInput(CorpusPath):
    format: Annotated[str, StringConstraints(max_length=40)] = Field("auto", description="of what lies at path")
    options: dict[str, Any] = Field({}, description="of the format's reader")


class Examination(Body):
    """How a corpus is to be validated; the spec of kind validate says what each field means."""

    workers: int | None = None
    tokens: bool = True
    similarity_threshold: float = 0.24
    min_image_side: int = 8


class PathExamination(CorpusInput, Examination):
    """The same for a corpus that is not registered."""


class Registration(CorpusPath):
    name: Name
    new_version: bool = Field(False, description="a name that exists stands for this corpus from now on")


class DatasetView(View):
    name: str
    path: str
    owner: str
    content_hash: str | None
    statistics: dict[str, Any] | None
    created_at: datetime


class DatasetVersionView(View):
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


class EncoderView(View):
    id: str
    name: str
    hash: str
    owner: str
    run_id: str | None
    info: dict[str, Any]
    created_at: datetime


class EncoderList(BaseModel):
    items: list[EncoderView]


class EncoderImport(Body):
    name: Name
    path: PathText = Field(description="directory on the server in save_pretrained layout, inside its data roots")


class Comparison(BaseModel):
    left: EncoderView
    right: EncoderView
    rows: list[dict[str, Any]]


class CollectionView(View):
    id: str
    name: str
    encoder_id: str | None
    encoder_hash: str
    dataset: str | None
    owner: str
    run_id: str | None
    images: int
    texts: int
    dim: int
    created_at: datetime


class CollectionList(BaseModel):
    items: list[CollectionView]


class CollectionDetail(CollectionView):
    labels: dict[str, list[str]] = Field(description="what a filter can ask for")


class Point(BaseModel):
    id: str
    x: float
    y: float
    caption: str
    labels: dict[str, str]


class CollectionMap(BaseModel):
    points: list[Point] = Field(description="two principal components, within [-1, 1]")
    total: int


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


class WorkerView(View):
    id: str
    host: str
    pid: int
    slots: int
    devices: list[Any]
    started_at: datetime
    seen_at: datetime
    consumed_at: datetime | None
    current_run: str | None


class WorkerList(BaseModel):
    items: list[WorkerView]


class KeyRequest(Body):
    owner: Name
    role: Role
    expires: datetime | None = None


class KeyView(View):
    prefix: str
    owner: str
    role: str
    created_at: datetime
    last_used: datetime | None
    expires: datetime | None


class NewKey(KeyView):
    key: str = Field(description="shown this once")


class KeyList(BaseModel):
    items: list[KeyView]


class Check(BaseModel):
    ok: bool
    detail: str


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, Check]
