"""Every benchmark by its name in the spec."""

from __future__ import annotations

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks.base import Benchmark
from lcl_core.evaluation.benchmarks.gqa import GQA
from lcl_core.evaluation.benchmarks.mmbench import MMBench
from lcl_core.evaluation.benchmarks.mme import MME
from lcl_core.evaluation.benchmarks.pope import POPE
from lcl_core.evaluation.benchmarks.scienceqa import ScienceQA
from lcl_core.evaluation.benchmarks.seedbench import SEEDBench
from lcl_core.evaluation.benchmarks.vizwiz import VizWiz
from lcl_core.evaluation.benchmarks.vqa import VQA

BENCHMARKS: dict[str, Benchmark] = {
    each.name: each for each in (VQA(), GQA(), VizWiz(), ScienceQA(), POPE(), MME(), MMBench(), SEEDBench())
}


def get_benchmark(name: str) -> Benchmark:
    """The scorer of a benchmark.

    Raises:
        UserError: ``unknown_benchmark``.
    """
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name}; there are {', '.join(BENCHMARKS)}", code="unknown_benchmark")
    return BENCHMARKS[name]
