"""Pre-training objectives: one small file each, one interface (``objective.py``), one registry."""

from lcl_core.objectives.combine import compute_loss
from lcl_core.objectives.lcl import Lcl
from lcl_core.objectives.objective import Joint, Objective
from lcl_core.objectives.registry import OBJECTIVES, build_objective
from lcl_core.objectives.terms import Encoding, Losses, Pairs, Ratio, Sum, Terms

__all__ = [
    "OBJECTIVES",
    "Encoding",
    "Joint",
    "Lcl",
    "Losses",
    "Objective",
    "Pairs",
    "Ratio",
    "Sum",
    "Terms",
    "build_objective",
    "compute_loss",
]
