"""The pre-training objectives by name. Adding one is adding a file and its line here."""

from __future__ import annotations

from lcl_core.errors import UserError
from lcl_core.objectives.lcl import LCL
from lcl_core.objectives.terms import Objective

OBJECTIVES: dict[str, Objective] = {"lcl": LCL}


def get_objective(name: str) -> Objective:
    """Look an objective up. Raises: UserError ``unknown_objective`` naming those there are."""
    if name not in OBJECTIVES:
        raise UserError(
            f"objective {name!r} is not known; choose from {', '.join(OBJECTIVES)}",
            code="unknown_objective",
            field="objective.name",
        )
    return OBJECTIVES[name]
