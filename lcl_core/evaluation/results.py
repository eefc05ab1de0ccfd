"""Results: metrics of stored predictions, the result table in JSON, CSV and Markdown, accuracy by class.

No model is loaded, so results can be computed again at any time.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.evaluation.metrics.benchmark_metrics import benchmark_metrics
from lcl_core.evaluation.metrics.caption_metrics import caption_metrics
from lcl_core.evaluation.metrics.core import BootstrapMetric, few_shot_metrics, rank_metrics
from lcl_core.evaluation.predictions import IMAGE_TO_CLASS, PredictionFile, PredictionStore

FileMetrics = Callable[[PredictionFile, list[dict[str, Any]]], list[BootstrapMetric]]

METRICS_BY_KIND: dict[str, FileMetrics] = {
    "ranks": rank_metrics,
    "draws": few_shot_metrics,
    "captions": caption_metrics,
    "answers": benchmark_metrics,
}


@dataclass(frozen=True)
class MetricRow:
    """One number of the table.

    Attributes:
        transfer: ``zero_shot``, ``frozen`` or ``full``.
        metric: ``TR@k`` and ``IR@k`` (image → text, text → image), ``TR median rank`` …, ``acc@k``, …
        value: of the trained encoder; shares lie in [0, 1].
        interval: 95 % bootstrap interval of ``value`` over the units.
        chance: what a random answer reaches, by arithmetic; none where that says nothing.
        majority: classification: what naming the most frequent training classes reaches.
        untrained: the same architecture with its initial weights, through the same code; none if not asked
            for.
        spread: standard deviation over repetitions of the task, where it was repeated.
        count: units: queries, pictures, questions.
        candidates: answers each query chose from; none where answers are free.
        left_out: pictures not asked about, by reason.
    """

    task: str
    split: str
    variant: str
    transfer: str
    metric: str
    value: float
    interval: tuple[float, float]
    chance: float | None
    majority: float | None
    untrained: float | None
    untrained_interval: tuple[float, float] | None
    spread: float | None
    count: int
    candidates: int | None
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval)}


def score_predictions(folder: Path, *, seed: int) -> list[MetricRow]:
    """Score the records in ``folder``, trained beside untrained; ``seed`` drives the bootstrap."""
    found = [(sheet, metrics_of_file(sheet, samples)) for sheet, samples in PredictionStore(folder).read()]
    twins = {
        (*sheet.question, each.metric): each
        for sheet, measures in found
        if sheet.encoder == "untrained"
        for each in measures
    }
    rows = []
    for sheet, measures in found:
        if sheet.encoder == "trained":
            rows += [_metric_row(sheet, each, twins.get((*sheet.question, each.metric)), seed) for each in measures]
    return rows


def metrics_of_file(sheet: PredictionFile, samples: list[dict[str, Any]]) -> Sequence[BootstrapMetric]:
    """What one sheet says.

    Raises:
        UserError: ``records_unreadable`` for a kind that is not known.
    """
    if sheet.kind not in METRICS_BY_KIND:
        raise UserError(
            f"records of kind {sheet.kind!r} are not known; there are {', '.join(METRICS_BY_KIND)}; evaluate again",
            code="records_unreadable",
        )  # fmt: skip
    return METRICS_BY_KIND[sheet.kind](sheet, samples)


def _metric_row(sheet: PredictionFile, own: BootstrapMetric, twin: BootstrapMetric | None, seed: int) -> MetricRow:
    return MetricRow(
        task=sheet.task,
        split=sheet.split,
        variant=sheet.variant,
        transfer=sheet.transfer,
        metric=own.metric,
        value=own.value,
        interval=own.interval(seed),
        chance=own.chance,
        majority=own.majority,
        untrained=None if twin is None else twin.value,
        untrained_interval=None if twin is None else twin.interval(seed),
        spread=own.spread,
        count=len(own.units),
        candidates=sheet.facts.get("candidates"),
        left_out=sheet.facts.get("left_out", {}),
    )


def write_tables(folder: Path, facts: dict[str, Any], rows: list[MetricRow]) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``; ``facts`` say who was examined, and on what."""
    write_json_atomically(folder / "table.json", {**facts, "rows": [row.to_dict() for row in rows]})
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(_csv_row(row) for row in rows)
    (folder / "table.md").write_text(markdown_table(facts, rows), encoding="utf-8")


def markdown_table(facts: dict[str, Any], rows: list[MetricRow]) -> str:
    """A heading line of facts and the table."""
    lines = [
        f"Encoder `{facts['encoder']}` ({facts['encoder_hash'][:12]}) on `{facts['dataset']}` "
        f"({facts['dataset_hash'][:12]}), lcl {facts['version']}, seed {facts['seed']}.",
        "",
        "| task | split | variant | transfer | metric | value | 95 % | untrained | chance | majority | n | of |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = _format_rank if row.metric.endswith("median rank") else _format_share
        interval = f"{shown(row.interval[0])} – {shown(row.interval[1])}"
        spread = "" if row.spread is None else f" ± {shown(row.spread)}"
        numbers = [shown(row.value) + spread, interval, shown(row.untrained), shown(row.chance), shown(row.majority)]
        counts = [str(row.count), "" if row.candidates is None else str(row.candidates)]
        words = [row.task, row.split, row.variant, row.transfer, row.metric, *numbers, *counts]
        lines.append(f"| {' | '.join(words)} |")
    lines += [f"\nLeft out: {text}." for text in _left_out_lines(rows)]
    return "\n".join(lines) + "\n"


_COLUMNS = (
    "task", "split", "variant", "transfer", "metric", "value", "low", "high", "spread",
    "untrained", "untrained_low", "untrained_high", "chance", "majority", "count", "candidates", "left_out",
)  # fmt: skip


def _csv_row(row: MetricRow) -> dict[str, Any]:
    values = row.to_dict()
    values["low"], values["high"] = values.pop("interval")
    values["untrained_low"], values["untrained_high"] = values.pop("untrained_interval") or (None, None)
    values["left_out"] = json.dumps(values["left_out"]) if values["left_out"] else ""
    return values


def _left_out_lines(rows: list[MetricRow]) -> list[str]:
    """One sentence a question that left pictures out."""
    said = (
        f"{count} pictures of {row.split}, {row.task} {row.variant} ({reason.replace('_', ' ')})"
        for row in rows
        for reason, count in row.left_out.items()
    )
    return list(dict.fromkeys(said))


def _format_share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _format_rank(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


@dataclass(frozen=True)
class ClassRow:
    """One class that was asked about.

    Attributes:
        count: pictures of it.
        acc1, acc5: share of them whose true class comes first, among the first five.
        taken_for: the class that the most of them are wrongly taken for, of equals the first by name; empty if none.
        times: how many.
    """

    label: str
    count: int
    acc1: float
    acc5: float
    taken_for: str
    times: int


def class_rows(samples: Sequence[dict[str, Any]]) -> list[ClassRow]:
    """A row a true class, by name; ``samples`` are those of a sheet of ranks."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        grouped.setdefault(sample["label"], []).append(sample)
    rows = []
    for label, own in sorted(grouped.items()):
        wrong = Counter(sample["top"][0] for sample in own if sample["top"][0] != label)
        taken_for, times = min(wrong.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
        first, five = (sum(sample["rank"] <= k for sample in own) / len(own) for k in (1, 5))
        rows.append(ClassRow(label, len(own), first, five, taken_for, times))
    return rows


def write_class_tables(records: Path, folder: Path) -> None:
    """``FOLDER/SHEET.csv`` for every sheet of ranked classes of the trained encoder."""
    for sheet, samples in PredictionStore(records).read():
        if sheet.kind != "ranks" or sheet.part != IMAGE_TO_CLASS or sheet.encoder != "trained":
            continue
        folder.mkdir(exist_ok=True)
        with (folder / sheet.file).with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(ClassRow)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in class_rows(samples))
