"""Images of a built corpus: decoded, put on white, shrunk and saved as WebP; vector drawings are rasterised.

Vector drawings need resvg-py, of the extra ``corpora``.
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from lcl_core.common.processes import usable_cores

WHITE = (255, 255, 255)
QUALITY = 85
OVERSAMPLING = 8  # how much larger a drawing is drawn before its border is cut off
# some drawings have the size of posters: Pillow refuses twice this number, and warns from it on
Image.MAX_IMAGE_PIXELS = 85_000_000
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Requirements of an image, and how it is saved.

    Attributes:
        side: longest side, px; None: that of the corpus.
        shortest: images with a shorter side below this, px, are icons.
        aspect: images with a larger ratio of long to short side are rules or banners.
        lossless: for sprites, whose every pixel counts.
    """

    side: int | None = None
    shortest: int = 0
    aspect: float = float("inf")
    lossless: bool = False


class ImageWriter:
    """Writes the images of one source; each name once."""

    def __init__(self, folder: Path, side: int) -> None:
        self.side = side
        self._folder = folder
        self._known: dict[str, str | None] = {}

    def __len__(self) -> int:
        return sum(name is not None for name in self._known.values())

    def put(self, source: Path | bytes | Image.Image, name: str, options: ImageOptions = ImageOptions()) -> str | None:
        """The name in the corpus; None for an unusable image."""
        if name not in self._known:
            self._known[name] = self._save(source, f"{name}.webp", options)
        return self._known[name]

    def _save(self, source: Path | bytes | Image.Image, name: str, options: ImageOptions) -> str | None:
        image = load_rgb(source)
        if image is None or min(image.size) < options.shortest or max(image.size) > options.aspect * min(image.size):
            return None
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        side = options.side or self.side
        if (longest := max(image.size)) > side:
            width, height = (max(1, round(each * (side / longest))) for each in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        quality = {"lossless": True} if options.lossless else {"quality": QUALITY}
        image.save(path, "WEBP", method=4, **quality)
        return name


def safe_image_name(name: str) -> str:
    """A name of letters, digits and slashes."""
    return re.sub(r"[^\w/-]", "_", name)


def load_rgb(source: Path | bytes | Image.Image) -> Image.Image | None:
    """RGB on white, the first frame; None if it cannot be decoded."""
    try:
        if isinstance(source, Path):
            data = source.read_bytes()
            source = gzip.decompress(data) if source.suffix == ".gz" else data
        image = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
        if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
        if image.mode != "RGBA":
            return image.convert("RGB")
        ground = Image.new("RGB", image.size, WHITE)
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    except Exception:  # decoders meet malformed bytes with any exception type
        return None


def rasterise_svg(svg: str, side: int) -> bytes | None:
    """PNG with both sides at most ``side`` pixels; None for what is no drawing. No font of this machine is used."""
    import resvg_py  # of the extra ``corpora``

    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))
    except Exception:  # malformed drawings, with an exception type of the library's own
        return None


def shrink_drawing(drawing: tuple[Path, Path], side: int) -> bytes | None:
    """A large drawing without its empty border, ``side`` pixels at most, as PNG; None if it cannot be had.

    ``drawing``: its pixels, and the vectors that they were made from, for where there are too many of them.
    """
    pixels, vectors = drawing
    image = load_rgb(pixels)
    if image is None and vectors.is_file():
        png = rasterise_svg(vectors.read_text(encoding="utf-8", errors="replace"), side * OVERSAMPLING)
        image = None if png is None else load_rgb(png)
    if image is None:
        return None
    small = trim_border(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def trim_border(image: Image.Image, margin: float = 0.04) -> Image.Image:
    """Without its empty border: many drawings are in one corner of a page."""
    box = ImageChops.difference(image, Image.new("RGB", image.size, WHITE)).getbbox()
    if box is None:
        return image
    left, top, right, bottom = box
    pad = int(margin * max(right - left, bottom - top)) + 1
    return image.crop(
        (max(0, left - pad), max(0, top - pad), min(image.width, right + pad), min(image.height, bottom + pad))
    )


# Names of colours by hue, in degrees, up to the first number; from 345 on it is red again.
_HUES = ((15.0, "red"), (40.0, "orange"), (68.0, "yellow"), (165.0, "green"), (255.0, "blue"), (300.0, "purple"))
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey")
_PAPER = 0.94  # lightness from which a pixel without colour is ground, or white
_SMALLEST_SHARE = 0.03  # of the pixels, that an image's contents have at least
_COLOURED_SHARE = 0.3  # of the contents, from which an image is called by its colours
_MAIN_SHARE = 0.6  # of the coloured pixels, or of the contents, from which one colour is the main one


def main_colour(path: Path) -> str:
    """The colour that a drawing on white mostly has, one of ``COLOURS``; empty: none, or several.

    White is no colour here, since it cannot be told from the ground. Outlines in black or grey do not count while a
    third of the contents is coloured.
    """
    with Image.open(path) as image:
        colours = _colours_of_pixels(image.convert("RGB"))
    contents = colours[colours >= 0]
    if len(contents) < _SMALLEST_SHARE * colours.size:
        return ""
    counts = np.bincount(contents, minlength=len(COLOURS))
    grey = counts[-2:].sum()
    if counts.sum() - grey >= _COLOURED_SHARE * counts.sum():
        counts[-2:] = 0
    main = int(counts.argmax())
    return COLOURS[main] if counts[main] >= _MAIN_SHARE * counts.sum() else ""


def _colours_of_pixels(image: Image.Image) -> NDArray[np.int64]:
    """Numbers of ``COLOURS`` by pixel; -1 for white."""
    hue, saturation, value = np.moveaxis(np.asarray(image.convert("HSV"), np.float64), -1, 0) / 255
    numbers = {name: number for number, name in enumerate(COLOURS)}
    bounds, names = zip(*_HUES, strict=True)
    by_hue = np.array([numbers[name] for name in (*names, "pink", "red")])
    found = by_hue[np.searchsorted((*bounds, 345.0), hue * 360, side="right")]
    found[(found == numbers["red"]) & (saturation < 0.5) & (value > 0.7)] = numbers["pink"]
    found[(found == numbers["orange"]) & (value < 0.65)] = numbers["brown"]
    pale = saturation < 0.15
    found[pale] = numbers["grey"]
    found[(value < 0.25) | (pale & (value < 0.35))] = numbers["black"]
    found[pale & (value > _PAPER)] = -1
    return found


def map_in_processes(work: Callable[[A], B], items: Iterable[A], at_once: int = 16, processes: int = 16) -> list[B]:
    """``work`` of each item, in their order, on as many cores as there are, ``processes`` at most."""
    with ProcessPoolExecutor(min(usable_cores(), processes)) as pool:
        return list(pool.map(work, items, chunksize=at_once))
