"""Runs, their files, specs and estimates."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.base import Line, Reference, RequestModel, RowView, Tag
from lcl_core.db.submit import DEFAULT_MAX_ATTEMPTS
from lcl_core.jobs import Kind


class RunSubmission(RequestModel):
    kind: Kind
    spec: dict[str, Any] = Field(description="as GET /v1/specs/{kind} describes", examples=[{"preset": "sample"}])
    name: Line | None = None
    tags: list[Tag] = Field([], max_length=32)
    after: list[Reference] = Field([], max_length=32, description="ids of runs whose success it waits for")
    priority: int = Field(
        0, ge=-100, le=100, description="higher goes first; who is no admin may be held to LCL_MAX_PRIORITY"
    )
    resource: Literal["cpu", "gpu"] | None = Field(None, description="what a worker must offer; none: any, by kind")
    gpus: int | None = Field(
        None, ge=1, le=64, description="on each machine, as engine.processes says; none: that many where it gets GPUs"
    )
    max_attempts: int = Field(
        DEFAULT_MAX_ATTEMPTS,
        ge=1,
        le=100,
        description="workers that may be lost without a new checkpoint between before it fails",
    )


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
    gpus: int = Field(description="that it takes on each machine where it gets GPUs; 0: of resource cpu")
    devices: list[str] = Field([], description="ids of the GPUs that it has now")
    after: list[str] = Field(description="runs whose success it waits for")
    owner: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    encoder_id: str | None = None
    collection_id: str | None = None
    inputs: dict[str, Any] | None = Field(
        None, description="content hash of each dataset, and weights hash of each encoder, that it reads"
    )
    study_id: str | None = Field(None, description="the study that submitted it")
    artifacts: dict[str, Any] | None = Field(
        None, description="while its files are not in the store of artifacts yet: code artifacts_pending, message"
    )


class LogChunk(BaseModel):
    text: str
    offset: int = Field(description="where to go on")
    size: int = Field(description="bytes of the log now")


class ArtifactView(BaseModel):
    name: str
    bytes: int
    modified_at: datetime
    sha256: str | None = Field(None, description="of what is in the store of artifacts")


class SpecView(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    json_schema: dict[str, Any] = Field(alias="schema")
    presets: dict[str, dict[str, Any]]


class EstimateRequest(RequestModel):
    spec: dict[str, Any] = Field(description="as a submission would have it", examples=[{"preset": "sample"}])
    resource: Literal["cpu", "gpu"] | None = Field(None, description="as a submission would have it")


class RangeView(BaseModel):
    expected: float
    low: float
    high: float


class CountsView(BaseModel):
    """Means, where documents differ."""

    documents: float
    images: float
    tokens: float = Field(description="those of images among them")


class EstimateView(BaseModel):
    certainty: Literal["measured", "scaled", "assumed"] = Field(
        description="measured: rate of runs of the same setup; scaled: of another size; assumed: no such runs"
    )
    device: Literal["cpu", "gpu"] = Field(description="what it is taken to compute on")
    seconds: RangeView = Field(description="from its start to its end, waiting in the queue apart")
    memory_bytes: RangeView = Field(description="peak of one process; on a GPU of the GPU's memory")
    memory_parts: dict[str, int] = Field(
        description="bytes as counted: weights, gradients, moments, average, copies, activations, process"
    )
    parameters: int = Field(description="of the encoder that comes out, text tower included")
    flops_per_step: float = Field(description="useful floating-point operations, all processes together")
    flops: float
    per_step: CountsView
    samples: CountsView = Field(description="read in all")
    checkpoint_bytes: int = Field(description="one checkpoint")
    disk_bytes: int = Field(
        description="checkpoints kept at the end, the encoder, and images that data.resident decodes"
    )
    basis: list[str] = Field(description="what this rests on, a sentence each")
    runs: list[str] = Field(description="ids of the runs that the rate comes from, the most similar first")
