"""One image a distribution."""

import sys

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.validation.__main__ import draw_plots, format_short
from lcl_core.data.validation.validate import validate

pytest.importorskip("matplotlib")


def report_of(kit, *pairs):
    return validate(kit.corpus(pairs=pairs))


def test_each_distribution_that_has_values_is_drawn(kit, tmp_path):
    report = report_of(kit, kit.pair("red.png", "a b c"), kit.pair("absent.png", "d"))
    names = draw_plots(report, tmp_path / "pictures")
    assert names == ["images_per_document.png", "length.png", "image_side.png", "problems.png"], "nothing was matched"
    for name in names:
        with Image.open(tmp_path / "pictures" / name) as image:
            assert image.width > 800
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10, "something is drawn"


def test_an_empty_corpus_has_no_image(kit, tmp_path):
    assert draw_plots(report_of(kit), tmp_path) == []


def test_without_matplotlib_the_way_out_is_reported(kit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"lcl\[data\]"):
        draw_plots(report_of(kit), tmp_path)


def test_figures_are_short():
    assert [format_short(value) for value in (3, 999.0, 1500, 12_400, 3_000_000, 2.5e9, 0.3125)] == [
        "3",
        "999",
        "1,500",
        "12.4k",
        "3M",
        "2.5G",
        "0.312",
    ]
