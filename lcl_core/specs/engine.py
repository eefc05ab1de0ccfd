"""How a pre-training job computes. Nodes, processes and ``accumulate`` multiply the batch, the rest is last digits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lcl_core.specs.base import Spec


class EngineSpec(Spec):
    """Processes, memory and speed."""

    # left out where it says nothing, so that specs of before there were nodes keep their hash
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        exclude_if=lambda nodes: nodes == 1,
        description="machines: as many workers take the run, or none",
    )
    processes: int = Field(1, ge=1, le=64, description="training processes on each machine, one a GPU")
    strategy: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="several processes: each holds all weights, or (fsdp2) a part of every block"
    )
    accumulate: int = Field(
        1, ge=1, le=1024, description="batches a process puts into one step; contrasted as if they were one"
    )
    activation_checkpointing: bool = Field(False, description="compute activations twice to keep fewer in memory")
    compile: bool = Field(False, description="compile every transformer block; pays on GPUs and in long runs")
    tensorboard: bool = Field(False, description="also write the metrics for TensorBoard, as an artifact")
