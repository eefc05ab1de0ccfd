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
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from lcl_core.common.errors import UserError
from lcl_core.common.threads import usable_cores

WHITE = (255, 255, 255)
MAX_PIXELS = 170_000_000  # some drawings have the size of posters; to flatten one takes eleven bytes a pixel
MAX_BYTES = 256 << 20
MAX_PROCESSES = 16
QUALITY = 85
_UNUSUAL = re.compile(r"[^\w/-]")
A = TypeVar("A")
B = TypeVar("B")
ImageInput = Path | bytes | Image.Image


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

    def put(self, source: ImageInput, name: str, options: ImageOptions = ImageOptions()) -> str | None:
        """The name in the corpus; None for an unusable image."""
        if name not in self._known:
            self._known[name] = self._save(source, f"{name}.webp", options)
        return self._known[name]

    def _save(self, source: ImageInput, name: str, options: ImageOptions) -> str | None:
        image = load_rgb(source)
        if image is None or min(image.size) < options.shortest or max(image.size) > options.aspect * min(image.size):
            return None
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = {"lossless": True} if options.lossless else {"quality": QUALITY}
        fit_to_side(image, options.side or self.side).save(path, "WEBP", method=4, **quality)
        return name


def safe_image_name(name: str) -> str:
    """A name of letters, digits and slashes."""
    return _UNUSUAL.sub("_", name)


def load_rgb(source: ImageInput) -> Image.Image | None:
    """RGB on white, the first frame; None if it cannot be decoded."""
    try:
        return flatten_on_white(_open_image(source))
    except Exception:  # decoders meet malformed bytes with any exception type
        return None


def _open_image(source: ImageInput) -> Image.Image:
    """Raises: errors of the decoder; ValueError above the bounds."""
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, Path):
        with source.open("rb") as file, gzip.open(file) if source.suffix == ".gz" else file as contents:
            source = contents.read(MAX_BYTES + 1)
    with allow_large_images():
        image = Image.open(io.BytesIO(source))
    if len(source) > MAX_BYTES or image.width * image.height > MAX_PIXELS:
        raise ValueError("the image is too large")
    return image


def allow_large_images() -> AbstractContextManager[Any]:
    """No warning of images below ``MAX_PIXELS``."""
    return warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)


def flatten_on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        ground = Image.new("RGB", image.size, WHITE)
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image.convert("RGB")


def fit_to_side(image: Image.Image, side: int) -> Image.Image:
    """Shrunk so that no side is longer than ``side``."""
    longest = max(image.size)
    if longest <= side:
        return image
    width, height = (max(1, round(each * (side / longest))) for each in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def trim_border(image: Image.Image, margin: float = 0.04) -> Image.Image:
    """Without its empty border: many drawings sit in one corner of a page."""
    box = ImageChops.difference(image, Image.new("RGB", image.size, WHITE)).getbbox()
    if box is None:
        return image
    left, top, right, bottom = box
    pad = int(margin * max(right - left, bottom - top)) + 1
    wider = (max(0, left - pad), max(0, top - pad), min(image.width, right + pad), min(image.height, bottom + pad))
    with allow_large_images():
        return image.crop(wider)


# Names of colours by hue, in degrees, up to the first number; from 345 on it is red again.
_HUES = ((15.0, "red"), (40.0, "orange"), (68.0, "yellow"), (165.0, "green"), (255.0, "blue"), (300.0, "purple"))
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey")
_PAPER = 0.94  # lightness from which a pixel without colour is ground, or white
_SMALLEST_SHARE = 0.03  # of the pixels, that an image's contents have at least
_COLOURED_SHARE = 0.3  # of the contents, from which an image is called by its colours
_MAIN_SHARE = 0.6  # of the coloured pixels, or of the contents, from which one colour is the main one


def main_colour(image: Image.Image) -> str:
    """The colour that a drawing on white mostly has, one of ``COLOURS``; empty: none, or several.

    White is no colour here, since it cannot be told from the ground. Outlines in black or grey do not count while a
    third of the contents is coloured.
    """
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


def main_colour_of_file(path: Path) -> str:
    with Image.open(path) as image:
        return main_colour(image)


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


def map_in_processes(
    work: Callable[[A], B], items: Iterable[A], at_once: int = 16, processes: int = MAX_PROCESSES
) -> list[B]:
    """``work`` of each item, in their order, on as many cores as there are, ``processes`` at most."""
    with ProcessPoolExecutor(min(usable_cores(), processes)) as pool:
        return list(pool.map(work, items, chunksize=at_once))


_OVERSAMPLING = 8  # how much larger a drawing is drawn before its border is cut off


def rasterise_svg(svg: str, side: int) -> bytes | None:
    """PNG with both sides at most ``side`` pixels; None for what is no drawing. No font of this machine is used."""
    try:
        return bytes(_resvg().svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))
    except UserError:
        raise
    except Exception:  # malformed drawings, with an exception type of the library's own
        return None


def renderer_version() -> str | None:
    """Version of the library that draws vector images; None where it is not installed."""
    try:
        return version("resvg-py")
    except PackageNotFoundError:
        return None


def _resvg() -> Any:
    try:
        return import_module("resvg_py")
    except ImportError as error:
        message = "drawings need resvg-py, which is not installed; `pip install 'lcl[corpora]'` brings it"
        raise UserError(message, code="missing_extra") from error


def shrink_drawing(drawing: tuple[Path, Path], side: int) -> bytes | None:
    """A large drawing without its empty border, ``side`` pixels at most, as PNG; None if it cannot be had.

    ``drawing``: its pixels, and the vectors that they were made from, for where there are too many of them.
    """
    pixels, vectors = drawing
    image = load_rgb(pixels) or _rasterise_file(vectors, side * _OVERSAMPLING)
    if image is None:
        return None
    small = trim_border(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _rasterise_file(vectors: Path, side: int) -> Image.Image | None:
    if not vectors.is_file():
        return None
    png = rasterise_svg(vectors.read_text(encoding="utf-8", errors="replace"), side)
    return None if png is None else load_rgb(png)
