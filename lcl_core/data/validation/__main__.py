"""``python -m lcl_core.data.validation RUN_DIR``: validate a corpus as ``RUN_DIR/run.json`` says, with plots."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from lcl_core.common.errors import UserError, import_optional
from lcl_core.common.files import write_json_atomically
from lcl_core.common.plot_style import COLOURS, INK, LINE, MUTED, new_figure, save_figure, style_axes
from lcl_core.common.processes import usable_cores
from lcl_core.common.run_dir import JobProgress, RunDir, run_main
from lcl_core.data.corpus.open import count_items, open_source
from lcl_core.data.jsonl import to_json_safe
from lcl_core.data.tokenizer import clip_tokenizer
from lcl_core.data.validation.report import Histogram, Report
from lcl_core.data.validation.validate import MAX_WORKERS, validate
from lcl_core.specs.corpus_jobs import ValidateSpec
from lcl_core.specs.parsing import parse_spec

TITLES = {
    "images_per_document": ("Images in a document", "images"),
    "length": ("Length of a document", "{unit}"),
    "similarity": ("Similarity of matched image and sentence", "cosine similarity"),
    "image_side": ("Size of an image", "shorter side, pixels"),
}
MAX_REASONS = 12


def draw_plots(report: Report, folder: Path) -> list[str]:
    """Write ``NAME.png`` for each distribution that has values, and ``problems.png`` where there are problems.

    Returns: the names of the files. Raises: UserError ``missing_extra`` without matplotlib.
    """
    import_optional("matplotlib.figure", "drawing the distributions")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (title, label) in TITLES.items():
        histogram = report.histograms[name]
        if histogram.count:
            figure, axes = _new_axes(title)
            _draw_bars(axes, histogram, label.format(unit=report.length_unit))
            save_figure(figure, folder / f"{name}.png")
            written.append(f"{name}.png")
    if report.reasons:
        figure, axes = _new_axes("Problems by reason", 0.5 * min(len(report.reasons), MAX_REASONS) + 1.6)
        reasons = list(report.reasons.items())[:MAX_REASONS][::-1]
        names, counts = zip(*reasons, strict=True)
        bars = axes.barh(names, counts, height=0.62, color=COLOURS[1])
        axes.bar_label(bars, [f"{number:,}" for number in counts], padding=6, fontsize=9.5, color=INK)
        axes.margins(x=0.15)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", labelsize=10, colors=INK)
        _write_above(axes, f"of {report.documents:,} documents and {report.images:,} images")
        save_figure(figure, folder / "problems.png")
        written.append("problems.png")
    return written


def _new_axes(title: str, height: float = 3.4) -> tuple[Any, Any]:
    figure = new_figure(7.2, height, dpi=150)
    axes = figure.subplots()
    style_axes(axes, title, hidden=("top", "right", "left"), size=13, pad=26)
    axes.tick_params(labelsize=9)
    axes.set_axisbelow(True)
    return figure, axes


def _draw_bars(axes: Any, histogram: Histogram, label: str) -> None:
    """Bins side by side, however wide they are, so that doubling ones can be read; the mean in words above."""
    filled = [index for index, count in enumerate(histogram.counts) if count]
    first, last = max(filled[0] - 1, 0), min(filled[-1] + 1, len(histogram.counts) - 1)
    places = range(first, last + 1)
    axes.bar(places, histogram.counts[first : last + 1], width=0.88, color=COLOURS[0], zorder=2)
    ticks = places if len(places) <= 16 else places[:: len(places) // 10]
    axes.set_xticks(ticks, [_bin_label(*histogram.edges[index : index + 2]) for index in ticks])
    axes.set_xlabel(label, fontsize=10, color=MUTED, labelpad=8)
    axes.yaxis.grid(True, color=LINE, linewidth=0.8)
    axes.yaxis.set_major_locator(import_optional("matplotlib.ticker", "drawing").MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: format_short(value))
    axes.margins(x=0.01)
    values = (histogram.count, histogram.mean or 0.0, histogram.least or 0.0, histogram.most or 0.0)
    count, mean, least, most = map(format_short, values)
    _write_above(axes, f"{count} values  ·  mean {mean}  ·  {least} to {most}")


def _write_above(axes: Any, words: str) -> None:
    axes.text(0, 1.04, words, transform=axes.transAxes, fontsize=9.5, color=MUTED)


def _bin_label(low: float, high: float) -> str:
    """``3`` for whole numbers one apart, ``8–15`` for wider ones, ``0.24`` for fractions."""
    if not (low.is_integer() and high.is_integer()):
        return f"{low:.2f}"
    return format_short(low) if high - low <= 1 else f"{format_short(low)}–\n{format_short(high - 1)}"


def format_short(value: float) -> str:
    """``12.4k``, ``3M``, ``0.31``."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def validate_run(run_dir: RunDir) -> dict[str, Any]:
    """Run ``run.json``: write ``report.json``, ``quarantine.jsonl`` and ``pictures/`` as artifacts.

    Raises:
        UserError: bad spec, or a corpus that cannot be read at all.
        JobCancelled: after SIGTERM; the next attempt continues.
    """
    run = run_dir.read_run()
    spec = cast(ValidateSpec, parse_spec("validate", run["spec"]))
    source = open_source(spec, run.get("datasets", {}), run.get("roots"))
    total, progress = count_items(source), JobProgress(run_dir, "examining")
    report = validate(
        source,
        run_dir.checkpoints / "parts",
        processes=min(usable_cores(), MAX_WORKERS) if spec.workers is None else max(1, spec.workers),
        similarity_threshold=spec.similarity_threshold,
        tokenizer=clip_tokenizer() if spec.tokens else None,
        quarantine=run_dir.artifacts / "quarantine.jsonl",
        on_progress=lambda done: progress(done, total),
    )
    values = to_json_safe(report.model_dump(mode="json"))  # names of files may have bytes that are no text
    write_json_atomically(run_dir.artifacts / "report.json", values)
    try:
        pictures = [f"pictures/{name}" for name in draw_plots(report, run_dir.artifacts / "pictures")]
    except UserError as error:  # hours of reading are not thrown away because a library is missing
        print(error, file=sys.stderr)  # noqa: T201 - the run's log
        pictures = []
    hashes = {"dataset_hash": source.content_hash()} if spec.dataset is not None else {}
    return {"report": values, "pictures": pictures, **hashes}


if __name__ == "__main__":
    sys.exit(run_main(validate_run))
