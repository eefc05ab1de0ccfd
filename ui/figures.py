"""Numbers as the whole page shows them, the main figures of evaluations, and bars of these.

Shares in percent with one decimal, ranks whole, losses with three decimals, counts with commas; "–" for no value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ui.html import esc, html_table

Row = Mapping[str, Any]

MISSING = "–"
MAIN_METRICS = ("IR@5", "TR@5", "acc@1", "accuracy", "CIDEr")
# in the order in which they are shown; other tasks follow
TASK_LABELS = {
    "retrieval": "Retrieval",
    "tuned_retrieval": "Tuned retrieval",
    "classification": "Probe",
    "zero_shot_classification": "Zero-shot",
    "captioning": "Captions",
    "captions": "Captions",
    "dialogue": "Questions",
    "keywords": "Keywords",
}
RETRIEVAL_LABELS = {"IR": "Finds the image for a text", "TR": "Finds the text for an image"}
SHARES = ("@", "accuracy", "precision", "recall", "F1", "rate", "word of", "mfu", "data_wait", "retrieval_r")
WORSE = "no better than untrained"


def number(value: Any) -> str:
    """A count or a rate: ``6.4 M``, ``33,120``, ``152``, ``1.5``, ``6·10⁻⁶``; other values as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING if value is None else str(value)
    if not math.isfinite(value):
        return MISSING
    if 1e6 <= abs(value) < 1e12:
        return f"{value / 1e6:,.1f} M"
    if 10 <= abs(value) < 1e6 or (abs(value) < 1e6 and float(value).is_integer()):
        return f"{value:,.0f}".replace("-", "−")
    if 0 < abs(value) < 0.0001 or abs(value) >= 1e12:
        digits, _, power = f"{value:.0e}".partition("e")
        return f"{digits}·10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def is_share(metric: str) -> bool:
    """Is a metric a share of all, and not a rank, a loss or a score?"""
    return any(part in metric for part in SHARES) and not metric.endswith(("rank", "per_s"))


def metric_text(metric: str, value: float | str | None, unit: str = " %") -> str:
    """A value of a metric by its name. ``unit``: behind a share."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return number(value)
    if is_share(metric):
        return ("< 0.1" if 0 < value < 0.0005 else f"{100 * value:.1f}".replace("-", "−")) + unit
    if metric.endswith("rank"):
        return f"{value:,.0f}"
    if metric.endswith("lr"):
        return number(value).removeprefix("0") if value else "0"
    three = metric.endswith(("loss", "CIDEr", "norm", "scale")) or metric.startswith(("BLEU", "ROUGE"))
    return f"{value:,.3f}".replace("-", "−") if three else number(value)


def interval_text(row: Row) -> str:
    """``31.0–39.0``, without the unit; empty where there is none."""
    ends = [metric_text(row["metric"], bound, "") for bound in row.get("interval") or ()]
    return (" to " if "−" in "".join(ends) else "–").join(ends)


def figure_label(row: Row) -> str:
    """The task of a figure in words, with what was tested where that is not plain."""
    task, variant = str(row["task"]), str(row.get("variant") or "")
    words = TASK_LABELS.get(task, task.replace("_", " ").capitalize())
    if retrieval := RETRIEVAL_LABELS.get(str(row["metric"])[:2]):
        return retrieval if task == "retrieval" else f"{retrieval}, tuned"
    if row.get("transfer") == "full":
        words += ", whole encoder"
    return f"{words}, {variant}" if variant and variant != "all" else words


def main_figures(rows: Iterable[Any]) -> list[Any]:
    """The figures of each task, split and protocol that are shown first, in the order of the tasks.

    Recall at 5 in both directions or accuracy at 1, else the first metric; of the first variant, never of the best.
    """
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        first.setdefault((row["task"], row["split"], row.get("transfer"), row["metric"]), row)
    tasks, metrics = list(TASK_LABELS), list(MAIN_METRICS)
    ordered = sorted(
        first.items(),
        key=lambda item: (
            tasks.index(item[0][0]) if item[0][0] in tasks else len(tasks),
            metrics.index(item[0][3]) if item[0][3] in metrics else len(metrics),
        ),
    )
    chosen: dict[tuple[Any, ...], list[Row]] = {}
    for (*question, metric), row in ordered:
        of_question = chosen.setdefault(tuple(question), [])
        if metric in MAIN_METRICS or not of_question:
            of_question.append(row)
    return [row for of_question in chosen.values() for row in of_question]


def is_worse(row: Row) -> bool:
    """Is a figure no better than that of untrained weights, or not surely? False where that is not known."""
    untrained, bounds = row.get("untrained"), row.get("interval") or (row["value"], row["value"])
    if untrained is None:
        return False
    return bool(bounds[1] >= untrained if row["metric"].endswith("rank") else bounds[0] <= untrained)


def draw_figures(rows: Sequence[Row]) -> str:
    """A line for each figure: a bar from 0 to 100 % with its baselines, value and interval, and all of it in words."""
    splits, started = {row["split"] for row in rows}, any(row.get("start") is not None for row in rows)
    lines = "".join(_line(row, split=len(splits) > 1) for row in rows)
    return (
        '<ul class="lcl-bars"><li class="lcl-bars__scale" aria-hidden="true"><span><i>0 %</i><i>50</i><i>100 %</i>'
        f'</span></li>{lines}</ul><p class="lcl-note lcl-bars__key">● value · ├┤ 95 % interval · ┊ chance · '
        f"○ untrained weights{' · ◇ start weights' if started else ''}</p>"
    )


def _line(row: Row, *, split: bool) -> str:
    metric, baselines = str(row["metric"]), ("chance", "majority", "untrained")
    words = [f"{name} {metric_text(metric, row[name], '')}" for name in baselines if row.get(name) is not None]
    if row.get("start") is not None:
        words.append(f"start weights {metric_text(metric, row['start'], '')}")
    if worse := is_worse(row):
        words.append(f"<strong>{WORSE}</strong>")
    style = "" if row.get("untrained") is None else "worse" if worse else "better"
    label, short = figure_label(row) + (f", {row['split']}" if split else ""), metric.replace("IR@", "R@")
    return (
        f'<li class="lcl-bars__{style}"><span>{esc(label)}</span><em>{esc(short.replace("TR@", "R@"))}</em>'
        f"{draw_bar(row)}<b>{metric_text(metric, row['value'])}</b><i>{interval_text(row)}</i>"
        f"<small>{' · '.join(words)}</small></li>"
    )


def draw_bar(row: Row) -> str:
    """The bar of a share; empty for another metric. What it shows is in the words beside it."""
    if not is_share(row["metric"]):
        return "<span></span>"
    marks = {name: row.get(name) for name in ("chance", "untrained", "start", "value")}
    low, high = row.get("interval") or (row["value"], row["value"])
    inside = f'<i class="lcl-bar-range" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>' + "".join(
        f'<i class="lcl-bar-{name}" style="left:{100 * value:.2f}%"></i>'
        for name, value in marks.items()
        if value is not None
    )
    return f'<span class="lcl-figure-bar" aria-hidden="true">{inside}</span>'


def draw_table(rows: Sequence[Row]) -> str:
    """All figures; a press on the title of a column sorts (page.js)."""
    columns = ("Task", "Variant", "Metric", "Value", "95 %", "Chance", "Untrained", "Split", "Protocol")
    return html_table("All figures", columns, "".join(map(_table_row, rows)), "figures")


def _table_row(row: Row) -> str:
    metric = str(row["metric"])
    value, chance, untrained = (
        f'<td data-sort="{esc(row.get(name, ""))}">{metric_text(metric, row.get(name))}</td>'
        for name in ("value", "chance", "untrained")
    )
    split, variant, transfer = (esc(row.get(name) or "") for name in ("split", "variant", "transfer"))
    task = figure_label({**row, "variant": "", "transfer": ""})
    return (
        f"<tr><td>{esc(task)}</td><td>{variant}</td><td>{esc(metric)}</td>"
        f"{value}<td>{interval_text(row)}</td>{chance}{untrained}<td>{split}</td><td>{transfer}</td></tr>"
    )
