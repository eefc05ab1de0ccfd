"""Runs, their files, specs and estimates."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.base import Line, Reference, RequestModel, RowView, request_example
from lcl_core.db.submit import DEFAULT_MAX_ATTEMPTS
from lcl_core.jobs import Kind
from lcl_core.specs.base import Tag


class RunSubmission(RequestModel):
    model_config = ConfigDict(
        json_schema_extra=request_example(
            kind="pretrain", spec={"preset": "sample", "steps": 500}, name="first-try", tags=["baseline"]
        )
    )

    kind: Kind = Field(description="what the run does")
    spec: dict[str, Any] = Field(description="as GET /v1/specs/{kind} describes", examples=[{"preset": "sample"}])
    name: Line | None = Field(
        None, description="shown in lists; of a pretrain run also the name of the encoder that it makes"
    )
    tags: list[Tag] = Field([], max_length=32, description="words to filter the list of runs by")
    after: list[Reference] = Field([], max_length=32, description="ids or names of runs whose success it waits for")
    priority: int = Field(0, ge=-100, le=100, description="higher goes first; above 0 for admins alone")
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


class RunAnnotation(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(tags=["baseline"], notes="diverged after step 4,000"))

    tags: list[Tag] = Field([], max_length=32, description="replace the tags of the run; left out: they stay")
    notes: str | None = Field(
        None, max_length=10_000, description="replace the notes of the run, null removes them; left out: they stay"
    )


class RunResumption(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(timeout_seconds=90_000))

    timeout_seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="replace the limit on the time of all attempts, null removes it; left out: it stays",
    )


class RunView(RowView):
    id: str = Field(description="id of the run")
    kind: str = Field(description="what it does")
    name: str | None = Field(description="as submitted")
    tags: list[str] = Field(description="words to filter the list of runs by")
    notes: str | None = Field(None, description="what its owner wrote about it")
    state: str = Field(
        description="waiting, queued, running, cancelling, cancelled, pausing, paused, succeeded or failed"
    )
    spec: dict[str, Any] = Field(description="with the preset and all defaults filled in")
    reason: dict[str, Any] | None = Field(description="why it failed: code, message, field")
    interruption: dict[str, Any] | None = Field(
        description="why its last attempt ended unfinished, and what the present one found damaged: code, message. "
        "no_capacity_since: since when it waits for its engine's capacity, in seconds since 1970"
    )
    progress: dict[str, Any] | None = Field(description="its last line of metrics")
    obstacle: dict[str, Any] | None = Field(None, description="why no worker can take it: code, message")
    result: dict[str, Any] | None = Field(description="what it made and measured; null until it succeeds")
    attempt: int = Field(description="number of the present attempt, from 1")
    max_attempts: int = Field(description="attempts without progress before it fails")
    priority: int = Field(description="higher goes first")
    resource: str = Field(description="cpu, gpu, or accelerator: a GPU where there is one")
    gpus: int = Field(description="that it takes on each machine where it gets GPUs; 0: of resource cpu")
    devices: list[str] = Field([], description="ids of the GPUs that it has now")
    after: list[str] = Field(description="runs whose success it waits for")
    owner: str = Field(description="owner of the key that submitted it")
    created_at: datetime = Field(description="when it was submitted")
    started_at: datetime | None = Field(description="when its first attempt began")
    finished_at: datetime | None = Field(description="when it ended")
    encoder_id: str | None = Field(None, description="the encoder that it made or evaluated")
    collection_id: str | None = Field(None, description="the collection that it made or added to")
    inputs: dict[str, Any] | None = Field(
        None, description="content hash of each dataset, weights hash of each encoder, and folders, that it reads"
    )
    study_id: str | None = Field(None, description="the study that submitted it")
    artifacts: dict[str, Any] | None = Field(
        None,
        description="while its files are not in the store of artifacts yet: code artifacts_pending, message",
    )


class LogChunk(BaseModel):
    text: str = Field(description="from the offset of the request on")
    offset: int = Field(description="where to go on")
    size: int = Field(description="bytes of the log now")


class ArtifactView(BaseModel):
    name: str = Field(description="path below the run's artifacts")
    bytes: int = Field(description="size")
    modified_at: datetime = Field(description="when it was written")
    sha256: str | None = Field(None, description="of what is in the store of artifacts")


class SpecSummary(BaseModel):
    kind: str = Field(description="kind of run, or study")
    description: str = Field(description="what it does")
    presets: list[str] = Field(description="names of its starting points")


class SpecView(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    json_schema: dict[str, Any] = Field(alias="schema", description="JSON schema of the spec")
    presets: dict[str, dict[str, Any]] = Field(description="named starting points: the fields that each one sets")


class EstimateRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(spec={"preset": "sample", "steps": 500}))

    spec: dict[str, Any] = Field(description="as a submission would have it", examples=[{"preset": "sample"}])
    resource: Literal["cpu", "gpu"] | None = Field(None, description="as a submission would have it")


class RangeView(BaseModel):
    expected: float = Field(description="most likely value")
    low: float = Field(description="lower end")
    high: float = Field(description="upper end")


class CountsView(BaseModel):
    """Means, where documents differ."""

    documents: float = Field(description="documents")
    images: float = Field(description="images")
    tokens: float = Field(description="those of images among them")


class EstimateView(BaseModel):
    certainty: Literal["measured", "scaled", "assumed"] = Field(
        description="measured: rate of runs of the same setup; scaled: of another size; assumed: no such runs"
    )
    device: Literal["cpu", "gpu"] = Field(description="what it is taken to compute on")
    seconds: RangeView = Field(description="from its start to its end, waiting in the queue apart")
    memory_bytes: RangeView = Field(description="peak of one process; on a GPU of the GPU's memory")
    memory_parts: dict[str, int] = Field(
        description="bytes as counted: weights, gradients, moments, copies, activations, process"
    )
    parameters: int = Field(description="of the encoder that comes out, text tower included")
    flops_per_step: float = Field(description="useful floating-point operations, all processes together")
    flops: float = Field(description="useful floating-point operations of the whole run")
    per_step: CountsView
    samples: CountsView = Field(description="read in all")
    checkpoint_bytes: int = Field(description="one checkpoint")
    disk_bytes: int = Field(
        description="checkpoints kept at the end, the encoder, and images that data.resident decodes"
    )
    basis: list[str] = Field(description="what this rests on, a sentence each")
    runs: list[str] = Field(description="ids of the runs that the rate comes from, the most similar first")
