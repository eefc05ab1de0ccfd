"""Pre-training objectives: one small file each, one interface (``terms.py``), one registry."""

from lcl_core.objectives.combine import compute_loss
from lcl_core.objectives.registry import OBJECTIVES, get_objective
from lcl_core.objectives.terms import Objective, Pairs, Sum, Terms

__all__ = ["OBJECTIVES", "Objective", "Pairs", "Sum", "Terms", "compute_loss", "get_objective"]
