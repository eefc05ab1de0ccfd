"""What is known of the runs of a study, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lcl_core.studies.cells import Key, key_of
from lcl_core.studies.rows import Labels, Setting
from lcl_core.studies.states import cell_state


@dataclass(frozen=True)
class RunFacts:
    """A run as its row says."""

    id: str
    state: str
    result: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    reason: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    continues: str | None = None


@dataclass(frozen=True)
class CellFacts:
    """A cell with its pre-training, and the examination of the encoder once there is one."""

    number: int
    labels: Labels
    parameters: Setting
    seed: int
    rung: int
    run: RunFacts
    evaluation: RunFacts | None = None

    def state(self, *, cancelled: bool = False) -> str:
        """As ``cell_state``."""
        return cell_state(self.run.state, self.evaluation.state if self.evaluation else None, cancelled=cancelled)

    @property
    def key(self) -> Key:
        return key_of(self.labels, self.seed, self.rung)

    @property
    def row_key(self) -> tuple[frozenset[tuple[str, str]], int]:
        """What the cells of one line of the table have in common."""
        return frozenset(self.labels.items()), self.rung


def by_row(cells: Sequence[CellFacts]) -> list[list[CellFacts]]:
    """The cells of each line of the table, lines in the order of their first cell."""
    rows: dict[Any, list[CellFacts]] = {}
    for cell in sorted(cells, key=lambda cell: cell.number):
        rows.setdefault(cell.row_key, []).append(cell)
    return list(rows.values())
