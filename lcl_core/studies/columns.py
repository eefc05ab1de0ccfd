"""Which figures a study's table shows, and of which cells."""

from __future__ import annotations

from dataclasses import dataclass

from lcl_core.specs import HalvingSearch, MetricSpec, StudySpec
from lcl_core.studies.facts import CellFacts
from lcl_core.studies.figures import Figure, figure_of


@dataclass(frozen=True)
class Column:
    """A metric of the table.

    Attributes:
        head: its name, and whether it is what a search chose by.
        rungs: of which rungs' cells it is a figure; None: of all.
    """

    head: str
    metric: MetricSpec
    rungs: range | None = None

    def covers(self, cell: CellFacts) -> bool:
        """Whether a cell has, or will have, this figure."""
        return self.rungs is None or self.metric.of == "training" or cell.rung in self.rungs

    def figure(self, cell: CellFacts) -> Figure | None:
        """Of one cell; None while it has none."""
        return figure_of(self.metric, cell) if self.covers(cell) else None


def columns_of(study: StudySpec) -> list[Column]:
    """The study's metrics; a halving reports them of its finalists alone, and of every trial what it was ranked by."""
    search = study.search
    if not isinstance(search, HalvingSearch):
        return [Column(metric.name, metric) for metric in study.metrics]
    last = len(search.rungs)
    reported = [Column(metric.name, metric, range(last, last + 1)) for metric in study.metrics]
    return [*reported, Column(f"validation {search.metric.name}", search.metric, range(last))]
