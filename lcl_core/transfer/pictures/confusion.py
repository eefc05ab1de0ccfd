"""Which classes are taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.transfer.pictures.canvas import INK, QUIET, new_figure, save

MOST = 40  # classes in one picture; of more, those in the most mistakes


def shown_classes(samples: Sequence[dict[str, Any]], most: int = MOST) -> list[str]:
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
    classes = shown_classes(samples)
    counts = confusion_matrix(samples, classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.17 * len(classes)
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    total = len({sample["label"] for sample in samples})
    some = f", the {len(classes)} of {total} classes in the most mistakes" if total > len(classes) else ""
    axes.set_title(title + some, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xticks(range(len(classes) + 1), [*map(_short, classes), "any other"], rotation=90)
    axes.set_yticks(
        range(len(classes)), [f"{_short(name)} ({n})" for name, n in zip(classes, counts.sum(1), strict=True)]
    )
    axes.tick_params(length=0, labelsize=7, colors=QUIET)
    axes.set_xlabel("answer", color=QUIET, fontsize=9)
    axes.set_ylabel("true class (pictures)", color=QUIET, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6).ax.tick_params(length=0, labelsize=7, colors=QUIET)
    save(figure, file)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
