"""What a worker is told by its environment, beyond what everybody shares."""

from __future__ import annotations

from pydantic import Field

from lcl_core.settings import Settings


class WorkerSettings(Settings):
    """Read from ``LCL_*``."""

    worker_slots: int = Field(1, ge=1, le=64, description="runs at a time")
    watch_seconds: float = Field(0.5, gt=0, description="between two looks at a running process")
    reap_seconds: float = Field(2.0, gt=0, description="between two rounds of the reaper")
    ping_seconds: float = Field(5.0, gt=0, description="between two signs of life")
    log_format: str = Field("auto", pattern="^(auto|json|text)$", description="auto: text on a terminal")
