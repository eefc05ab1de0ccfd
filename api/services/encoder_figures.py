"""Figures of encoders, of finished evaluations and of model cards, and the order of encoders by quality.

First pinned encoders, then those that come with the product unless they were evaluated as the others were, then
evaluated ones by their main figure, then the others, newest first. An encoder that is no better than untrained weights,
or hardly trained, has a badge that says so and comes last unless pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from lcl_core.db import registry, runs
from lcl_core.db.datasets import PRODUCT_OWNER
from lcl_core.db.models import EncoderRow

CARD_SOURCE = "model card: measured before the release with `python -m benchmarks`, not by this service"
WORSE, HARDLY_TRAINED = "worse than untrained", "hardly trained"
MIN_STEP_SHARE = 0.01  # of the longest training: with less, an encoder is hardly trained
MAIN_FIGURES = (  # (title, task, metric); of the last two the first that there is
    ("text → image", "retrieval", "IR@5"),
    ("image → text", "retrieval", "TR@5"),
    ("zero-shot", "zero_shot_classification", "acc@1"),
    ("probe", "classification", "acc@1"),
)
Json = dict[str, Any]


def encoder_figures(session: Session, row: EncoderRow) -> list[Json]:
    """All metrics of its evaluations, newest evaluation first; then, with their ``source``, those of its model card."""
    return _with_card(row, runs.evaluation_rows(session, row.id).get(row.id, []))


def encoders_by_quality(session: Session) -> list[tuple[EncoderRow, list[Json], str]]:
    """(encoder, its main figures, its badge or an empty text), best first."""
    encoders, measured = registry.list_encoders(session), runs.evaluation_rows(session)
    most = max((_steps(each) for each in encoders), default=0)
    main = {each.id: main_figures(measured.get(each.id, ())) for each in encoders}
    compared = all(main[each.id] for each in encoders if each.owner == PRODUCT_OWNER)
    ranked = [(each, main[each.id], quality_badge(main[each.id], _steps(each), most)) for each in encoders]
    ranked.sort(key=lambda entry: _place(entry[0], entry[1], entry[2], compared))  # stable: equals stay newest first
    return [(row, figures or main_figures(_with_card(row, ())), badge) for row, figures, badge in ranked]


def main_figures(rows: Sequence[Json]) -> list[Json]:
    """Up to three rows with a ``title``: of each title the first row, not the best one."""
    found = {}
    for title, task, metric in MAIN_FIGURES:
        row = next((row for row in rows if (row["task"], row["metric"]) == (task, metric)), None)
        if row is not None and not (title == "probe" and "zero-shot" in found):
            found[title] = {**row, "title": title}
    return list(found.values())


def quality_badge(main: Sequence[Json], steps: int, most_steps: int) -> str:
    """Why an encoder is no good; empty where nothing is known against it. ``most_steps``: of the longest training."""
    if main and main[0].get("untrained") is not None and main[0]["value"] <= main[0]["untrained"]:
        return WORSE
    return HARDLY_TRAINED if 0 < steps < MIN_STEP_SHARE * most_steps else ""


def _with_card(row: EncoderRow, measured: Sequence[Json]) -> list[Json]:
    origin = {"run_id": None, "dataset": None, "dataset_hash": None, "source": CARD_SOURCE}
    return [*measured, *({**figure, **origin} for figure in row.info.get("figures", ()))]


def _place(row: EncoderRow, main: Sequence[Json], badge: str, compared: bool) -> tuple[int, int, float]:
    """Sort key. ``compared``: each encoder of the product was evaluated here, as the others were."""
    if row.pinned:
        return 0, 0, 0.0
    if badge:
        return 4, 0, 0.0
    if row.owner == PRODUCT_OWNER and not compared:
        return 1, 0, 0.0
    if not main:
        return 3, 0, 0.0
    titles = [title for title, _, _ in MAIN_FIGURES]
    return 2, titles.index(main[0]["title"]), -float(main[0]["value"])


def _steps(row: EncoderRow) -> int:
    steps = row.info.get("steps")
    return steps if isinstance(steps, int) else 0
