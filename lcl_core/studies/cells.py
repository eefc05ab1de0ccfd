"""The cells of a study: one pre-training each, completely specified."""

from __future__ import annotations

from dataclasses import dataclass

from lcl_core.errors import UserError
from lcl_core.specs import PretrainSpec, StudySpec, spec_hash
from lcl_core.studies.resolve import evaluations_of, pretrain_of
from lcl_core.studies.rows import Labels, Row, Setting, check_size, rows_of, words_of

Key = tuple[frozenset[tuple[str, str]], int, int]


@dataclass(frozen=True)
class Cell:
    """One pre-training of a study.

    Attributes:
        labels, parameters: of its row.
        rung: 0, or how often a halving has promoted it.
        hash: of the spec: the same work has the same.
    """

    labels: Labels
    parameters: Setting
    seed: int
    rung: int
    spec: PretrainSpec
    hash: str

    @property
    def key(self) -> Key:
        return key_of(self.labels, self.seed, self.rung)


def key_of(labels: Labels, seed: int, rung: int) -> Key:
    """What tells a cell from the other cells of its study."""
    return frozenset(labels.items()), seed, rung


def expand(study: StudySpec) -> list[Cell]:
    """The cells that a study begins with, one seed after the other, so that all rows of the table fill together.

    Raises: UserError ``bad_spec`` naming the variant that is at fault, ``too_many_cells`` or ``same_cell``.
    """
    evaluations_of(study)  # only to be sure that they hold
    rows = rows_of(study)
    check_size(study, len(rows) * len(study.seeds))
    cells = [cell_of(study, row, seed) for seed in study.seeds for row in rows]
    _check_difference(cells)
    return cells


def cell_of(study: StudySpec, row: Row, seed: int, rung: int = 0) -> Cell:
    """The cell of a row. Raises: UserError ``bad_spec``."""
    spec = pretrain_of(study, row, seed, rung)
    return Cell(row.labels, row.parameters, seed, rung, spec, spec_hash("pretrain", spec))


def _check_difference(cells: list[Cell]) -> None:
    known: dict[str, Cell] = {}
    for cell in cells:
        other = known.setdefault(cell.hash, cell)
        if other is not cell:
            raise UserError(
                f"{words_of(other.labels)} and {words_of(cell.labels)} come to the same pre-training; take one away",
                code="same_cell",
                field="axes",
            )
