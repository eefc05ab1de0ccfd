"""How sheets of each kind are scored: a pure function of a sheet and its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lcl_core.transfer.records import Sheet
from lcl_core.transfer.scoring.answers import answer_measures
from lcl_core.transfer.scoring.captions import caption_measures
from lcl_core.transfer.scoring.draws import draw_measures
from lcl_core.transfer.scoring.measure import Measure
from lcl_core.transfer.scoring.ranks import rank_measures

Scorer = Callable[[Sheet, list[dict[str, Any]]], list[Measure]]

SCORERS: dict[str, Scorer] = {
    "ranks": rank_measures,
    "draws": draw_measures,
    "captions": caption_measures,
    "answers": answer_measures,
}
