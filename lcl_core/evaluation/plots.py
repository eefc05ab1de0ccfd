"""Figures of an evaluation run, into ``artifacts/figures``: sample grids, loss curves, confusion matrices."""

from __future__ import annotations

import random
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lcl_core.common.errors import UserError
from lcl_core.common.plot_style import COLOURS, INK, MUTED, new_figure, save_figure, style_axes
from lcl_core.data import Corpus
from lcl_core.evaluation.benchmarks.base import AnsweredQuestion
from lcl_core.evaluation.benchmarks.registry import get_benchmark
from lcl_core.evaluation.metrics.caption_metrics import score_captions
from lcl_core.evaluation.predictions import IMAGE_TO_CLASS, IMAGE_TO_TEXT, PredictionFile, PredictionStore


@dataclass(frozen=True)
class SampleCell:
    """One sample of a sheet.

    Attributes:
        images: names in the corpus.
        words: lines under them.
        goodness: the higher the better.
        right: whether it counts as right; none where there is no such thing.
    """

    images: tuple[str, ...]
    words: tuple[str, ...]
    goodness: float
    right: bool | None


def rank_cells(sheet: PredictionFile, samples: Sequence[dict[str, Any]]) -> list[SampleCell]:
    """Of a sheet of ranks: a class with its picture, a picture with the texts it found, a text with its pictures."""
    if sheet.part == IMAGE_TO_CLASS:
        return [_class_cell(sample) for sample in samples]
    return [(_image_to_text_cell if sheet.part == IMAGE_TO_TEXT else _text_to_image_cell)(sample) for sample in samples]


def caption_cells(sheet: PredictionFile, samples: Sequence[dict[str, Any]]) -> list[SampleCell]:
    """A picture with the caption that was written and the first of its own; CIDEr says how good it is."""
    written = {sample["query"]: sample["caption"] for sample in samples}
    own = {sample["query"]: sample["references"] for sample in samples}
    ciders = score_captions(written, own, with_meteor=False).per_picture["CIDEr"]
    return [
        SampleCell((name,), (f"“{written[name]}” ({cider:.2f})", f"own: {own[name][0]}"), float(cider), None)
        for name, cider in zip(written, ciders, strict=True)
    ]


def answer_cells(sheet: PredictionFile, samples: Sequence[dict[str, Any]]) -> list[SampleCell]:
    """A picture with a question, the answer that was given and the right one."""
    records = [AnsweredQuestion.from_dict(sample) for sample in samples]
    scores = get_benchmark(sheet.facts["benchmark"]).score(records)
    points: dict[str, float] = {}
    for metric, units in scores.samples.items():
        if metric.startswith("acc"):  # accuracy, acc: of a question; acc+ is of a picture
            points |= units
    return [_answer_cell(record, points.get(record.question.id)) for record in records]


# A kind of records that is not here has no examples to show.
CELLS_BY_KIND: dict[str, Callable[[PredictionFile, Sequence[dict[str, Any]]], list[SampleCell]]] = {
    "ranks": rank_cells,
    "captions": caption_cells,
    "answers": answer_cells,
}


def _class_cell(sample: dict[str, Any]) -> SampleCell:
    share = sample["probability"]
    words = (f"is {sample['label']} ({share:.0%})", f"seen as {sample['top'][0]}")
    return SampleCell((sample["query"],), words, share, sample["rank"] == 1)


def _image_to_text_cell(sample: dict[str, Any]) -> SampleCell:
    words = (f"own text at rank {sample['rank']}; first:", *sample["top"][:3])
    return SampleCell((sample["query"],), words, -sample["rank"], sample["rank"] == 1)


def _text_to_image_cell(sample: dict[str, Any]) -> SampleCell:
    words = (f"“{sample['query']}”", f"own picture at rank {sample['rank']}")
    return SampleCell(tuple(sample["top"]), words, -sample["rank"], sample["rank"] == 1)


def _answer_cell(record: AnsweredQuestion, points: float | None) -> SampleCell:
    question = record.question
    truth = question.options.get(question.truth[0], question.truth[0])
    said = record.answer if record.answer is not None else "nothing"
    words = (question.text, f"“{said}”; right: {truth}")
    return SampleCell((question.image,), words, points or 0.0, None if points is None else points >= _HALF)


_HALF = 0.5  # of a question's points, from which on an answer counts as right


ROWS = 6
_CELL, _IMAGE, _GAP, _LINE, _LETTERS = 360, 66, 6, 16, 50
_HEIGHT = _IMAGE + 4 * _LINE + 3 * _GAP
_HEADING = 30
_INK, _MUTED, _GOOD, _BAD = "#0f172a", "#526076", "#0f766e", "#b45309"


def pick_samples(examples: Sequence[SampleCell], count: int, seed: int) -> dict[str, list[SampleCell]]:
    """``best`` first, ``worst`` first, and a seeded ``random`` draw, ``count`` of each; of equals the earlier ones."""
    ranked = sorted(examples, key=lambda example: -example.goodness)
    worst = sorted(examples, key=lambda example: example.goodness)
    drawn = random.Random(seed).sample(examples, min(count, len(examples)))  # noqa: S311
    return {"best": ranked[:count], "worst": worst[:count], "random": drawn}


def draw_samples(
    examples: Sequence[SampleCell], read_image: Callable[[str], Image.Image], title: str, file: Path, *, seed: int
) -> None:
    """Three columns of pictures with words.

    Args:
        read_image: a corpus's, by name.
    """
    columns = pick_samples(examples, ROWS, seed)
    size = (_GAP + len(columns) * (_CELL + _GAP), 2 * _HEADING + ROWS * _HEIGHT)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 8), title, fill=_INK, font=_font(15))
    for column, (name, chosen) in enumerate(columns.items()):
        left = _GAP + column * (_CELL + _GAP)
        pen.text((left, _HEADING + 6), name, fill=_MUTED, font=_font(14))
        for row, example in enumerate(chosen):
            _draw_cell(sheet, pen, (left, 2 * _HEADING + row * _HEIGHT), example, read_image)
    sheet.save(file)


def _draw_cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    example: SampleCell,
    read_image: Callable[[str], Image.Image],
) -> None:
    left, top = corner
    if example.right is not None:
        pen.rectangle((left, top, left + 3, top + _IMAGE), fill=_GOOD if example.right else _BAD)
    for place, name in enumerate(example.images):
        picture = ImageOps.contain(read_image(name), (_IMAGE, _IMAGE))
        sheet.paste(picture, (left + 8 + place * (_IMAGE + 3), top))
    lines = [part for words in example.words for part in textwrap.wrap(words, _LETTERS)[:2]]
    for place, line in enumerate(lines[:4]):
        pen.text((left, top + _IMAGE + _GAP + place * _LINE), line, fill=_INK, font=_font(12))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


_PANEL_COLUMNS = 2


def draw_curves(curves: Sequence[dict[str, Any]], file: Path) -> None:
    """One panel a task and protocol, one colour a variant; dashed lines are the untrained encoder's.

    Raises: UserError ``missing_extra`` without matplotlib.
    """
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for curve in curves:
        panels.setdefault((curve["task"], curve["transfer"]), []).append(curve)
    rows = -(-len(panels) // _PANEL_COLUMNS)
    figure = new_figure(4.8 * min(_PANEL_COLUMNS, len(panels)), 3.1 * rows)
    grid = figure.subplots(rows, min(_PANEL_COLUMNS, len(panels)), squeeze=False)
    for axes, ((task, transfer), own) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, f"{task}, {transfer}", own)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    save_figure(figure, file)


def _panel(axes: Any, title: str, curves: Sequence[dict[str, Any]]) -> None:
    colours = {
        name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(map(_variant_name, curves)))
    }
    named = set()
    for curve in curves:
        name = _variant_name(curve) + ("" if curve["encoder"] == "trained" else " (untrained)")
        steps = (np.arange(len(curve["loss"])) + 1) * curve["steps_a_point"]
        style = "-" if curve["encoder"] == "trained" else "--"
        label = None if name in named else name  # repeated draws share a line in the legend
        axes.plot(steps, curve["loss"], style, color=colours[_variant_name(curve)], linewidth=1.1, label=label)
        named.add(name)
    style_axes(axes, title)
    axes.set_xlabel("step", fontsize=8, color=MUTED)
    axes.set_ylabel("training loss", fontsize=8, color=MUTED)
    axes.legend(fontsize=7, frameon=False)


def _variant_name(curve: dict[str, Any]) -> str:
    return str(curve["variant"])


MAX_CLASSES = 40  # classes in one picture; of more, those in the most mistakes


def most_confused_classes(samples: Sequence[dict[str, Any]], most: int = MAX_CLASSES) -> list[str]:
    """All true classes by name, or the ``most`` that take part in the most mistakes, on either side."""
    true = sorted({sample["label"] for sample in samples})
    if len(true) <= most:
        return true
    mistakes: Counter[str] = Counter()
    for sample in samples:
        if sample["top"][0] != sample["label"]:
            mistakes.update((sample["label"], sample["top"][0]))
    return sorted(sorted(true, key=lambda name: (-mistakes[name], name))[:most])


def confusion_matrix(samples: Sequence[dict[str, Any]], classes: Sequence[str]) -> NDArray[np.int64]:
    """[C, C + 1] pictures of each true class (row) by the answer (column); the last column is every other answer."""
    place = {name: number for number, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes) + 1), np.int64)
    for sample in samples:
        if sample["label"] in place:
            matrix[place[sample["label"]], place.get(sample["top"][0], -1)] += 1
    return matrix


def draw_confusion(samples: Sequence[dict[str, Any]], title: str, file: Path) -> None:
    """Rows are true classes, each scaled to one; darker is more often. Raises: UserError without matplotlib."""
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
    axes.set_xticks(range(len(classes) + 1), [*map(_short_name, classes), "any other"], rotation=90)
    axes.set_yticks(
        range(len(classes)), [f"{_short_name(name)} ({n})" for name, n in zip(classes, counts.sum(1), strict=True)]
    )
    axes.tick_params(length=0, labelsize=7, colors=MUTED)
    axes.set_xlabel("answer", color=MUTED, fontsize=9)
    axes.set_ylabel("true class (pictures)", color=MUTED, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6).ax.tick_params(length=0, labelsize=7, colors=MUTED)
    save_figure(figure, file)


def _short_name(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def make_figures(
    records: Path,
    curves: Sequence[dict[str, Any]],
    corpus: Corpus,
    folder: Path,
    *,
    albums: Mapping[str, Corpus] = MappingProxyType({}),
    seed: int,
) -> str | None:
    """Draw what the trained encoder's answers and the curves show.

    Args:
        albums: where pictures lie that are not the corpus's, by the ``album`` in a sheet's facts.

    Returns: why some are left out (matplotlib is not installed), else none.
    """
    folder.mkdir(exist_ok=True)
    sheets = [(sheet, samples) for sheet, samples in PredictionStore(records).read() if sheet.encoder == "trained"]
    for sheet, samples in sheets:
        if sheet.kind in CELLS_BY_KIND:
            file = folder / f"examples-{Path(sheet.file).stem}.png"
            held = albums.get(sheet.facts.get("album", ""), corpus)
            draw_samples(CELLS_BY_KIND[sheet.kind](sheet, samples), held.read_image, _title(sheet), file, seed=seed)
    try:
        for sheet, samples in sheets:
            if sheet.kind == "ranks" and sheet.part == IMAGE_TO_CLASS:
                draw_confusion(samples, _title(sheet), folder / f"confusion-{Path(sheet.file).stem}.png")
        if curves:
            draw_curves(curves, folder / "curves.png")
    except UserError as error:
        if error.code != "missing_extra":
            raise
        return error.message
    return None


def _title(sheet: PredictionFile) -> str:
    words = (sheet.task, sheet.variant, sheet.part.replace("_", " "), sheet.transfer, f"on {sheet.split}")
    return ", ".join(word for word in words if word)
