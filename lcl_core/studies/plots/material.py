"""What a plot is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lcl_core.studies.formats import row_name
from lcl_core.studies.table import point_of

Json = dict[str, Any]
COST_WORDS = {
    "seconds": "seconds of training",
    "images_seen": "pictures seen",
    "tokens_seen": "tokens seen",
    "flops": "floating-point operations of training (estimate)",
}


@dataclass(frozen=True)
class Material:
    """A study's table and curves, and which metric is asked for.

    Attributes:
        head: of the metric's column.
        value: key of the metric lines that ``curves`` are of.
    """

    title: str
    table: Json
    head: str
    curves: Sequence[Json] = ()
    value: str = "loss"

    @property
    def metric(self) -> Json:
        return next(metric for metric in self.table["metrics"] if metric["name"] == self.head)

    @property
    def cost(self) -> str:
        """The cost axis in words."""
        return COST_WORDS[self.table["compute"]]

    def name(self, row: Json) -> str:
        return row_name(self.table, row)

    def known(self) -> list[tuple[int, Json, Json]]:
        """(number, row, figure) of the rows that have the metric."""
        rows = enumerate(self.table["rows"])
        return [(number, row, row["figures"][self.head]) for number, row in rows if self.head in row["figures"]]

    def points(self) -> list[tuple[int, Json, float, float]]:
        """(number, row, cost, mean) of the rows that have both."""
        found = ((number, row, point_of(row, self.head, self.table["compute"])) for number, row, _ in self.known())
        return [(number, row, *point) for number, row, point in found if point is not None]
