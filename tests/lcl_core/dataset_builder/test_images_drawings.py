"""Vector drawings as pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.dataset_builder import images
from lcl_core.dataset_builder.images import rasterise_svg, shrink_drawing

pytest.importorskip("resvg_py")
SQUARE = '<rect x="4" y="4" width="8" height="8" fill="red"/>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{SQUARE}</svg>'


def opened(png: bytes | None) -> Image.Image:
    assert png is not None
    return Image.open(io.BytesIO(png))


def test_a_drawing_becomes_pixels() -> None:
    image = opened(rasterise_svg(SVG, 32))
    assert image.size == (32, 32)
    assert image.convert("RGBA").getpixel((16, 16)) == (255, 0, 0, 255)
    assert image.convert("RGBA").getpixel((1, 1))[3] == 0
    assert rasterise_svg("<svg", 32) is None


def test_a_large_drawing_is_trimmed_and_made_small(kit: Any, tmp_path: Path) -> None:
    kit.lay_out(tmp_path, {"a.png": kit.draw_image("red", (400, 200))})
    assert opened(shrink_drawing((tmp_path / "a.png", tmp_path / "absent.svg"), 32)).size[0] == 32
    assert shrink_drawing((tmp_path / "absent.png", tmp_path / "absent.svg"), 32) is None


def test_too_many_pixels_are_drawn_anew(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.lay_out(tmp_path, {"a.png": kit.draw_image("blue", (400, 400)), "a.svg": SVG})
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 300)
    image = opened(shrink_drawing((tmp_path / "a.png", tmp_path / "a.svg"), 32))
    assert image.size == (32, 32)
    assert image.getpixel((16, 16)) == (255, 0, 0), "from the vectors"
