"""Pre-training objectives: one small file each, one interface: ``(model, batch) -> LCLOutput``."""

from lcl_core.objectives.registry import OBJECTIVES, get_objective

__all__ = ["OBJECTIVES", "get_objective"]
