"""Losses while heads were learnt, from the run's ``curves.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.transfer.pictures.canvas import COLOURS, QUIET, new_figure, plain, save

_COLUMNS = 2


def draw_curves(curves: Sequence[dict[str, Any]], file: Path) -> None:
    """One panel a task and protocol, one colour a variant; dashed lines are the untrained encoder's.

    Raises: UserError ``missing_extra`` without matplotlib.
    """
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for curve in curves:
        panels.setdefault((curve["task"], curve["transfer"]), []).append(curve)
    rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(4.8 * min(_COLUMNS, len(panels)), 3.1 * rows)
    grid = figure.subplots(rows, min(_COLUMNS, len(panels)), squeeze=False)
    for axes, ((task, transfer), own) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, f"{task}, {transfer}", own)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    save(figure, file)


def _panel(axes: Any, title: str, curves: Sequence[dict[str, Any]]) -> None:
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(map(_variant, curves)))}
    named = set()
    for curve in curves:
        name = _variant(curve) + ("" if curve["encoder"] == "trained" else " (untrained)")
        steps = (np.arange(len(curve["loss"])) + 1) * curve["steps_a_point"]
        style = "-" if curve["encoder"] == "trained" else "--"
        label = None if name in named else name  # repeated draws share a line in the legend
        axes.plot(steps, curve["loss"], style, color=colours[_variant(curve)], linewidth=1.1, label=label)
        named.add(name)
    plain(axes, title)
    axes.set_xlabel("step", fontsize=8, color=QUIET)
    axes.set_ylabel("training loss", fontsize=8, color=QUIET)
    axes.legend(fontsize=7, frameon=False)


def _variant(curve: dict[str, Any]) -> str:
    return str(curve["variant"])
