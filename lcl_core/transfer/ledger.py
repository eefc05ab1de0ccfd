"""A JSON list in the artifacts that grows while a run goes on: choices that were made, curves of learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.rundir import write_json_atomically

_CURVE_POINTS = 400


class Ledger:
    """Written whole after each entry, so that what a stopped run found can be read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.entries: list[dict[str, Any]] = []

    def start(self) -> None:
        """Forget an earlier attempt."""
        self._file.unlink(missing_ok=True)

    def add(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        write_json_atomically(self._file, self.entries)


def curve(losses: Sequence[float]) -> dict[str, Any]:
    """The loss of each step as an entry of ``curves.json``, thinned by averaging neighbours."""
    every = max(1, -(-len(losses) // _CURVE_POINTS))
    points = [round(float(np.mean(losses[at : at + every])), 5) for at in range(0, len(losses), every)]
    return {"steps_a_point": every, "loss": points}
