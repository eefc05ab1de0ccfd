"""Every benchmark that can be scored, by name."""

from __future__ import annotations

from lcl_core.errors import UserError
from lcl_core.transfer.answers.gqa import GQA
from lcl_core.transfer.answers.mmbench import MMBench
from lcl_core.transfer.answers.mme import MME
from lcl_core.transfer.answers.pope import POPE
from lcl_core.transfer.answers.question import Scorer
from lcl_core.transfer.answers.scienceqa import ScienceQA
from lcl_core.transfer.answers.seedbench import SEEDBench
from lcl_core.transfer.answers.vizwiz import VizWiz
from lcl_core.transfer.answers.vqa import VQA

SCORERS: dict[str, Scorer] = {
    each.name: each for each in (VQA(), GQA(), VizWiz(), ScienceQA(), POPE(), MME(), MMBench(), SEEDBench())
}


def scorer(name: str) -> Scorer:
    """The scorer of a benchmark.

    Raises:
        UserError: ``unknown_benchmark``.
    """
    if name not in SCORERS:
        raise UserError(f"there is no benchmark {name}; there are {', '.join(SCORERS)}", code="unknown_benchmark")
    return SCORERS[name]
