"""Plots say what the table says."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.specs.study import StudySpec
from lcl_core.studies.plots import PLOTS, PlotData, draw_plot
from lcl_core.studies.table import build_table


@pytest.fixture
def material(study_of: Callable[..., StudySpec], cell_of: Any) -> PlotData:
    study = study_of(seeds=[0, 1])
    cells = [
        cell_of(number, value, seed=seed, labels={"loss": loss}, encoder={"seconds": cost})
        for number, (loss, seed, value, cost) in enumerate(
            [("both", 0, 0.2, 20.0), ("contrastive", 0, 0.1, 5.0), ("both", 1, 0.3, 20.0), ("contrastive", 1, 0.2, 5.0)]
        )
    ]
    curves = [{"labels": {"loss": "both"}, "rung": None, "points": [[1, 2.0, 1.9, 2.1], [2, 1.0, 0.9, 1.1]]}]
    return PlotData("What is <it> & $why$?", build_table(study, cells), "IR@5", curves)


def texts(svg: bytes) -> str:
    """Every text of an image; parsing also shows that it is well-formed."""
    return " ".join(ElementTree.fromstring(svg).itertext())


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_every_plot_is_drawn_in_both_kinds(material: PlotData, name: str) -> None:
    svg, png = draw_plot(name, material), draw_plot(name, material, "png")
    assert "What is <it> & $why$?" in texts(svg)
    assert Image.open(io.BytesIO(png)).size[0] > 1000
    assert draw_plot(name, material) == svg, "the same figures give the same image"


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_a_plot_without_figures_says_so(material: PlotData, study_of: Any, cell_of: Any, name: str) -> None:
    empty = PlotData("t", build_table(study_of(), [cell_of(0)]), "IR@5")
    assert "No figures yet" in texts(draw_plot(name, empty))
    assert "No figures yet" not in texts(draw_plot(name, material))


def test_rows_costs_and_the_law_are_named(material: PlotData) -> None:
    assert {"both", "contrastive", "IR@5"} <= set(texts(draw_plot("rows", material)).split())
    pareto = texts(draw_plot("pareto", material))
    assert "seconds of training" in pareto
    assert "Pareto front" in pareto
    exponent = material.table["fits"]["IR@5"]["exponent"]
    assert re.search(rf"x\^{exponent:.3f}", texts(draw_plot("scaling", material)))
    assert "step" in texts(draw_plot("curves", material))


def test_an_unknown_plot_names_those_there_are(material: PlotData) -> None:
    for name, kind in (("pie", "svg"), ("rows", "exe")):
        with pytest.raises(UserError, match=r"pareto\.svg") as caught:
            draw_plot(name, material, kind)
        assert caught.value.code == "unknown_plot"
