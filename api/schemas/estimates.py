"""An estimate over the wire: what :mod:`lcl_core.forecast` found."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from api.schemas.base import RequestModel


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
        description="measured: runs of the same setup told the rate; scaled: runs of another size did; assumed: none"
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
    disk_bytes: int = Field(description="checkpoints that are kept at the end, and the encoder")
    basis: list[str] = Field(description="what this rests on, a sentence each")
    runs: list[str] = Field(description="ids of the runs that told the rate, the nearest first")
