"""Images made small, on white."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.dataset_builder import images
from lcl_core.dataset_builder.images import (
    ImageOptions,
    ImageWriter,
    fit_to_side,
    flatten_on_white,
    load_rgb,
    main_colour,
    safe_image_name,
    trim_border,
)


def stored(tmp_path: Path, name: str | None) -> Image.Image:
    assert name is not None
    return Image.open(tmp_path / name)


def test_an_image_is_fitted_and_kept_as_webp_once(kit: Any, tmp_path: Path) -> None:
    kept = ImageWriter(tmp_path, 32)
    assert kept.put(kit.draw_image("red", (80, 40)), "s/a") == "s/a.webp"
    assert stored(tmp_path, "s/a.webp").size == (32, 16)
    assert stored(tmp_path, kept.put(kit.draw_image("red"), "s/b", ImageOptions(side=16))).size == (16, 16)
    assert kept.put(b"not looked at", "s/a") == "s/a.webp", "a name is looked at once"
    assert stored(tmp_path, kept.put(kit.draw_image("red", (8, 8)), "s/c")).size == (8, 8), "never made larger"
    assert len(kept) == 3


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((40, 31), ImageOptions(shortest=32)), ((70, 10), ImageOptions(aspect=6)), ((0, 0), ImageOptions())],
)
def test_what_is_unusable_has_no_name(kit: Any, tmp_path: Path, size: tuple[int, int], wanted: ImageOptions) -> None:
    kept = ImageWriter(tmp_path, 32)
    assert kept.put(kit.draw_image("red", size) if any(size) else b"no image", "a", wanted) is None
    assert (len(kept), list(tmp_path.glob("*.webp"))) == (0, [])


def test_sprites_keep_every_pixel(tmp_path: Path) -> None:
    sprite = Image.effect_noise((16, 16), 80).convert("RGB")
    kept = stored(tmp_path, ImageWriter(tmp_path, 32).put(sprite, "a", ImageOptions(lossless=True)))
    assert kept.convert("RGB").tobytes() == sprite.tobytes()


def test_transparency_lies_over_white() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    assert list(flatten_on_white(half).tobytes()) == [255, 0, 0, 255, 255, 255]
    indexed = Image.new("P", (1, 1), 0)
    indexed.putpalette([0, 0, 0])
    indexed.info["transparency"] = 0
    assert flatten_on_white(indexed).getpixel((0, 0)) == (255, 255, 255)


def test_the_empty_border_is_cut_off() -> None:
    page = Image.new("RGB", (300, 400), "white")
    page.paste("blue", (50, 60, 150, 110))
    assert trim_border(page).size == (110, 60), "four in a hundred of the longer side, and one, on each"
    assert trim_border(Image.new("RGB", (9, 9), "white")).size == (9, 9)


def test_compressed_files_are_read_and_large_ones_are_not(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png.gz").write_bytes(gzip.compress(kit.draw_image("red")))
    image = load_rgb(tmp_path / "a.png.gz")
    assert image is not None
    assert image.size == (40, 40)
    monkeypatch.setattr(images, "MAX_PIXELS", 1599)
    assert load_rgb(tmp_path / "a.png.gz") is None
    monkeypatch.setattr(images, "MAX_PIXELS", 1600)
    assert load_rgb(tmp_path / "a.png.gz") is not None
    monkeypatch.setattr(images, "MAX_BYTES", 50)
    assert load_rgb(tmp_path / "a.png.gz") is None
    assert load_rgb(tmp_path / "absent.png") is None


def test_only_the_longest_side_counts() -> None:
    assert fit_to_side(Image.new("RGB", (300, 100)), 100).size == (100, 33)
    assert fit_to_side(Image.new("RGB", (1000, 1)), 100).size == (100, 1)
    assert safe_image_name("a b/ü-(1).x") == "a_b/ü-_1__x"


def test_webp_is_what_it_says(kit: Any, tmp_path: Path) -> None:
    name = ImageWriter(tmp_path, 32).put(kit.draw_image("red"), "a")
    assert Image.open(io.BytesIO((tmp_path / str(name)).read_bytes())).format == "WEBP"


def shape(*colours: str | tuple[int, int, int], ground: str = "white") -> Image.Image:
    """Stripes of equal width on a ground with a border."""
    image = Image.new("RGB", (60, 60), ground)
    for number, colour in enumerate(colours):
        image.paste(Image.new("RGB", (40 // len(colours), 40), colour), (10 + number * (40 // len(colours)), 10))
    return image


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        (["#cc1a1a"], "red"),
        (["#e02020", "#d01010", "#2040c0"], "red"),
        (["#ff8c1a"], "orange"),
        (["#ffdd33"], "yellow"),
        (["#2e9e3a"], "green"),
        (["#2255cc"], "blue"),
        (["#1fb5c9"], "blue"),
        (["#8833cc"], "purple"),
        (["#e64fa8"], "pink"),
        (["#ff9db0"], "pink"),
        (["#7a4a20"], "brown"),
        (["#141414"], "black"),
        (["#8a8a8a"], "grey"),
        (["red", "blue"], ""),
        (["black", "black", "red", "grey"], ""),
        (["black", "red", "grey"], "red"),
        (["white"], ""),
    ],
)
def test_the_main_colour_of_a_drawing(colours: list[str], expected: str) -> None:
    """White is the ground; outlines do not count where a third is coloured; of two colours neither is the main one."""
    assert main_colour(shape(*colours)) == expected


def test_too_little_to_have_a_colour() -> None:
    image = Image.new("RGB", (60, 60), "white")
    image.paste(Image.new("RGB", (9, 9), "red"), (10, 10))
    assert main_colour(image) == ""
