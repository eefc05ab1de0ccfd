"""Figures of an evaluation run, into ``artifacts/figures``: sample grids, loss curves, confusion matrices."""

from __future__ import annotations

import logging
import random
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lcl_core.common.errors import import_optional
from lcl_core.data import Corpus
from lcl_core.evaluation.caption_metrics import score_captions
from lcl_core.evaluation.results import IMAGE_TO_CLASS, IMAGE_TO_TEXT, PredictionFile, PredictionStore, Samples
from lcl_core.evaluation.vlm.questions import LabelQuestion

log = logging.getLogger(__name__)
ROWS = 6  # samples in a column of a grid
MAX_CLASSES = 40  # in a confusion matrix; of more, those in the most mistakes
_CELL, _IMAGE, _GAP, _LINE, _CHARACTERS = 360, 66, 6, 16, 50
_HEIGHT = _IMAGE + 4 * _LINE + 3 * _GAP
_HEADING = 30
_PANEL_COLUMNS = 2
INK, MUTED = "#0f172a", "#526076"
COLOURS = ("#0f766e", "#b45309", "#1d4ed8", "#be185d", "#4d7c0f", "#6d28d9", "#0e7490", "#a16207")


def make_figures(
    records: Path, curves: Sequence[dict[str, Any]], corpus: Corpus, folder: Path, *, seed: int
) -> str | None:
    """Draw the trained encoder's predictions and the loss curves; a figure that cannot be drawn is left out.

    Errors of the machine, such as a full disk, are raised.

    Returns: the names of the figures that are left out with the reasons, else None.
    """
    folder.mkdir(exist_ok=True)
    left_out: dict[str, list[str]] = {}
    for name, draw in _figures(records, curves, corpus, seed):
        try:
            draw(folder / name)
        except OSError:
            raise
        except Exception as error:  # predictions and tables are complete: no figure is worth the run
            log.warning("figure %s cannot be drawn", name, exc_info=error)
            (folder / name).unlink(missing_ok=True)
            left_out.setdefault(str(error).strip().partition("\n")[0], []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in left_out.items()) or None


def _figures(
    records: Path, curves: Sequence[dict[str, Any]], corpus: Corpus, seed: int
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """The name of each figure with the function that draws it into a file."""
    drawn = PredictionStore(records).read(lambda file: file.encoder == "trained")
    for name, file, samples in drawn:
        stem = Path(name).stem
        words = (file.task, file.variant, file.part.replace("_", " "), file.transfer, f"on {file.split}")
        title = ", ".join(word for word in words if word)
        yield f"examples-{stem}.png", partial(_draw_examples, file, samples, corpus, title, seed)
        if file.kind == "ranks" and file.part == IMAGE_TO_CLASS:
            yield f"confusion-{stem}.png", partial(draw_confusion, samples, title)
    if curves:
        yield "curves.png", partial(draw_curves, curves)


# ---- style


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, inches."""
    figure_class = import_optional("matplotlib.figure", "drawing figures").Figure
    return figure_class(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")


def style_axes(axes: Any, title: str) -> None:
    """Title at the left, spines at the left and below, no ticks."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side not in ("top", "right"))
        spine.set_color("#e2e8f0")
    axes.tick_params(length=0, colors=MUTED, labelsize=8)


def save_figure(figure: Any, file: Path) -> None:
    """Write the figure as PNG. Text is drawn as it is: ``$`` in a label of a corpus does not start a formula."""
    text_class = import_optional("matplotlib.text", "drawing figures").Text
    for text in figure.findobj(text_class):
        text.set_parse_math(False)
    figure.savefig(file, metadata={"Software": None})


# ---- sample grids


class SampleCell(NamedTuple):
    """One sample in a grid.

    Attributes:
        images: names in the corpus; ``words``: lines under them.
        quality: the higher the better.
        correct: None where there is no such thing.
    """

    images: tuple[str, ...]
    words: tuple[str, ...]
    quality: float
    correct: bool | None


def sample_cells(file: PredictionFile, samples: Samples) -> list[SampleCell]:
    """An image with its class, the texts found for it, its caption or an answer; or a text with the images found."""
    if file.kind == "captions":
        captions = {sample["query"]: sample["caption"] for sample in samples}
        references = {sample["query"]: sample["references"] for sample in samples}
        scores = score_captions(captions, references).per_image["CIDEr"]
        return [
            SampleCell((name,), (f"“{caption}” ({score:.2f})", f"own: {references[name][0]}"), float(score), None)
            for (name, caption), score in zip(captions.items(), scores, strict=True)
        ]
    cells = []
    words: tuple[str, ...]
    for sample in samples:
        if file.kind == "answers":
            asked = LabelQuestion(**sample)
            words = (asked.text, f"“{asked.answer}”; right: {asked.truth}")
            cells.append(SampleCell((asked.image,), words, asked.is_right, asked.is_right))
            continue
        query, rank, top = sample["query"], sample["rank"], sample["top"]
        images, quality = (query,), float(-rank)
        if file.part == IMAGE_TO_CLASS:
            quality = sample["probability"]
            words = (f"is {sample['label']} ({quality:.0%})", f"seen as {top[0]}")
        elif file.part == IMAGE_TO_TEXT:
            words = (f"own text at rank {rank}; first:", *top[:3])
        else:
            images, words = tuple(top), (f"“{query}”", f"own image at rank {rank}")
        cells.append(SampleCell(images, words, quality, rank == 1))
    return cells


def pick_samples(cells: Sequence[SampleCell], count: int, seed: int) -> dict[str, list[SampleCell]]:
    """``best`` first, ``worst`` first, and a seeded ``random`` draw, ``count`` of each; of equals the earlier ones."""
    best = sorted(cells, key=lambda cell: -cell.quality)
    worst = sorted(cells, key=lambda cell: cell.quality)
    drawn = random.Random(seed).sample(cells, min(count, len(cells)))  # noqa: S311
    return {"best": best[:count], "worst": worst[:count], "random": drawn}


def _draw_examples(file: PredictionFile, samples: Samples, corpus: Corpus, title: str, seed: int, path: Path) -> None:
    """Three columns of images with words."""
    columns = pick_samples(sample_cells(file, samples), ROWS, seed)
    size = (_GAP + len(columns) * (_CELL + _GAP), 2 * _HEADING + ROWS * _HEIGHT)
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    pen.text((_GAP, 8), title, fill=INK, font=ImageFont.load_default(15))
    for column, (name, chosen) in enumerate(columns.items()):
        left = _GAP + column * (_CELL + _GAP)
        pen.text((left, _HEADING + 6), name, fill=MUTED, font=ImageFont.load_default(14))
        for row, cell in enumerate(chosen):
            top = 2 * _HEADING + row * _HEIGHT
            if cell.correct is not None:
                pen.rectangle((left, top, left + 3, top + _IMAGE), fill=COLOURS[0 if cell.correct else 1])
            for number, image_name in enumerate(cell.images):
                image = ImageOps.contain(corpus.read_image(image_name), (_IMAGE, _IMAGE))
                grid.paste(image, (left + 8 + number * (_IMAGE + 3), top))
            lines = [part for words in cell.words for part in textwrap.wrap(words, _CHARACTERS)[:2]]
            for number, line in enumerate(lines[:4]):
                at = (left, top + _IMAGE + _GAP + number * _LINE)
                pen.text(at, line, fill=INK, font=ImageFont.load_default(12))
    grid.save(path)


# ---- loss curves


def draw_curves(curves: Sequence[dict[str, Any]], file: Path) -> None:
    """One panel a task and protocol, one colour a variant; dashed lines are the untrained encoder's."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for curve in curves:
        panels.setdefault((curve["task"], curve["transfer"]), []).append(curve)
    rows, columns = -(-len(panels) // _PANEL_COLUMNS), min(_PANEL_COLUMNS, len(panels))
    figure = new_figure(4.8 * columns, 3.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, ((task, transfer), own) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, f"{task}, {transfer}", own)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    save_figure(figure, file)


def _draw_panel(axes: Any, title: str, curves: Sequence[dict[str, Any]]) -> None:
    variants = dict.fromkeys(str(curve["variant"]) for curve in curves)
    colours = {variant: COLOURS[number % len(COLOURS)] for number, variant in enumerate(variants)}
    named = set()
    for curve in curves:
        variant, trained = str(curve["variant"]), curve["encoder"] == "trained"
        name = variant if trained else f"{variant} (untrained)"
        steps = (np.arange(len(curve["loss"])) + 1) * curve["steps_a_point"]
        label = None if name in named else name  # repeated draws share a line in the legend
        style = "-" if trained else "--"
        axes.plot(steps, curve["loss"], style, color=colours[variant], linewidth=1.1, label=label)
        named.add(name)
    style_axes(axes, title)
    axes.set_xlabel("step", fontsize=8, color=MUTED)
    axes.set_ylabel("training loss", fontsize=8, color=MUTED)
    axes.legend(fontsize=7, frameon=False)


# ---- confusion matrices


def most_confused_classes(samples: Samples, most: int = MAX_CLASSES) -> list[str]:
    """All true classes by name, or the ``most`` that take part in the most mistakes, on either side."""
    true = sorted({sample["label"] for sample in samples})
    if len(true) <= most:
        return true
    mistakes: Counter[str] = Counter()
    for sample in samples:
        if sample["top"][0] != sample["label"]:
            mistakes.update((sample["label"], sample["top"][0]))
    return sorted(sorted(true, key=lambda name: (-mistakes[name], name))[:most])


def confusion_matrix(samples: Samples, classes: Sequence[str]) -> NDArray[np.int64]:
    """[C, C + 1] images of each true class (row) by prediction (column); the last column is every other class."""
    number = {name: position for position, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes) + 1), np.int64)
    for sample in samples:
        if sample["label"] in number:
            matrix[number[sample["label"]], number.get(sample["top"][0], -1)] += 1
    return matrix


def draw_confusion(samples: Samples, title: str, file: Path) -> None:
    """Rows are true classes, each scaled to one; darker is more often."""
    classes = most_confused_classes(samples)
    counts = confusion_matrix(samples, classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.17 * len(classes)
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    total = len({sample["label"] for sample in samples})
    some = f", the {len(classes)} of {total} classes in the most mistakes" if total > len(classes) else ""
    axes.set_title(title + some, loc="left", fontsize=10, fontweight="bold", color=INK)
    names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
    axes.set_xticks(range(len(classes) + 1), [*names, "any other"], rotation=90)
    axes.set_yticks(range(len(classes)), [f"{name} ({n})" for name, n in zip(names, counts.sum(1), strict=True)])
    axes.tick_params(length=0, labelsize=7, colors=MUTED)
    axes.set_xlabel("answer", color=MUTED, fontsize=9)
    axes.set_ylabel("true class (images)", color=MUTED, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6).ax.tick_params(length=0, labelsize=7, colors=MUTED)
    save_figure(figure, file)
