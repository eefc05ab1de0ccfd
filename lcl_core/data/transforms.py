"""Images to normalised pixels with Pillow and numpy (lcl-spec section 5; numerically torchvision's).

Images are resized in their own mode and converted to RGB afterwards, as the authors do. ``augment`` adds flips and
colour changes to the random crop: models trained on few artists otherwise memorise their palettes. All random choices
come from one generator before any pixel is computed.

Training keeps images as levels (uint8) until they are on the device that computes, a quarter of the bytes, and
normalises them there by ``LEVEL_TABLES``: a value depends on the channel and one of 256 levels alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageEnhance

from lcl_core.data.image_decoding import CropNeed
from lcl_core.specs.data import CLIP_MEAN, CLIP_STD, AugmentationSpec, Fit

_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10
_LONGEST_STRIP = 32

Box = tuple[int, int, int, int]


DIVIDED, MULTIPLIED = 0, 1  # numbers of the tables


def _level_tables() -> np.ndarray:
    """[2, 3, 256] float32: the normalised value of each level of each channel, rounded in one of two ways.

    ``DIVIDED`` rounds as dividing step by step does; ``MULTIPLIED`` as one product and one sum do, which is what
    images cropped by vector instructions have always had. They differ in the last bit.
    """
    levels = np.arange(256, dtype=np.float32)
    mean, std = np.array(CLIP_MEAN), np.array(CLIP_STD)
    single = np.float32
    divided = (levels / single(255) - mean.astype(single)[:, None]) / std.astype(single)[:, None]
    factor, offset = (1 / (255 * std)).astype(single)[:, None], (-mean / std).astype(single)[:, None]
    return np.stack([divided, levels * factor + offset])


LEVEL_TABLES = _level_tables()


def normalise(image: Image.Image) -> np.ndarray:
    """Any image → [3, H, W] float32, normalised with CLIP's mean and deviation."""
    return normalise_levels(_channels(image)[None], [DIVIDED])[0]


def normalise_levels(levels: np.ndarray, tables: Sequence[int]) -> np.ndarray:
    """uint8 [n, 3, H, W] → float32 [n, 3, H, W]. ``tables``: the number of the table of each image."""
    pixels = np.empty(levels.shape, np.float32)
    for image, table, out in zip(levels, tables, pixels, strict=True):
        for channel in range(3):
            # looking 256 values up beats computing them; "clip" spares a bounds check that uint8 cannot fail
            np.take(LEVEL_TABLES[table, channel], image[channel], out=out[channel], mode="clip")
    return pixels


def _channels(image: Image.Image) -> np.ndarray:
    """Any image → uint8 [3, H, W]."""
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")).transpose(2, 0, 1)


def crop_and_resize(image: Image.Image, box: Box, size: int) -> Image.Image:
    """The part (left, top, right, bottom) of the image as a size x size square, bicubic."""
    return image.crop(box).resize((size, size), Image.Resampling.BICUBIC)


def random_box(draw: random.Random, width: int, height: int, scale: tuple[float, float]) -> Box:
    """A crop of ``scale`` times the area and an aspect ratio of 3/4 to 4/3 (torchvision's RandomResizedCrop)."""
    low, high = math.log(_RATIOS[0]), math.log(_RATIOS[1])
    for _ in range(_TRIES):
        area = width * height * draw.uniform(*scale)
        ratio = math.exp(draw.uniform(low, high))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = draw.randrange(width - crop_width + 1), draw.randrange(height - crop_height + 1)
            return left, top, left + crop_width, top + crop_height
    return _central_box(width, height)


def squashed_box(draw: random.Random, width: int, height: int, scale: tuple[float, float]) -> Box:
    """A random box of the square that the image becomes when its sides are scaled separately, in the image's pixels."""
    side = max(width, height)
    left, top, right, bottom = random_box(draw, side, side, scale)
    left, top = left * width // side, top * height // side
    return left, top, max(left + 1, round(right * width / side)), max(top + 1, round(bottom * height / side))


def _central_box(width: int, height: int) -> Box:
    """The largest central crop whose ratio is allowed."""
    ratio = min(max(width / height, _RATIOS[0]), _RATIOS[1])
    crop_width = min(width, max(1, round(height * ratio)))
    crop_height = min(height, max(1, round(width / ratio)))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def pad_to_square(image: Image.Image, side: int) -> Image.Image:
    """Longest side to ``side`` (bicubic), in the middle of a square in the median colour of the outermost pixels."""
    scale = side / max(image.size)
    inner = image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.BICUBIC)
    levels = np.asarray(inner.convert("RGB"))
    border = np.concatenate((levels[0], levels[-1], levels[:, 0], levels[:, -1]))
    square = Image.new("RGB", (side, side), tuple(int(level) for level in np.median(border, axis=0)))
    square.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
    return square


def eval_transform(image: Image.Image, size: int, fit: Fit = "crop") -> np.ndarray:
    """The image as ``fit`` makes it square (bicubic), normalised → [3, size, size] float32.

    ``crop`` scales the shortest side to ``size`` and takes the central square.
    """
    if fit == "squash":
        return normalise(image.resize((size, size), Image.Resampling.BICUBIC))
    if fit == "pad":
        return normalise(pad_to_square(image, size))
    long = max(size, int(size * max(image.size) / min(image.size)))
    resized = (size, long) if image.width <= image.height else (long, size)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    if max(resized) > _LONGEST_STRIP * size:
        # of a hair-thin image only what the square shows is resized: the rest could fill the memory
        across, down = image.width / resized[0], image.height / resized[1]
        x, y = left * across, top * down
        box = (x, y, min(x + size * across, image.width), min(y + size * down, image.height))
        return normalise(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    square = image.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return normalise(square)


_COLOUR_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
_GROUND_LEVELS = (range(160, 256), range(96))  # light and dark
_WHITE = 250  # lowest level of a white border; JPEG and resampling move white by a few
_INK = 200  # lightness from which a pixel begins to be ground


class Cropper(Protocol):
    """Cuts a box (left, top, right, bottom) out of an image and makes it a square."""

    def crop(self, image: Image.Image, box: Box, size: int) -> Image.Image:
        """The square as an image, to be changed further."""

    def crop_levels(self, image: Image.Image, box: Box, size: int, mirrored: bool, out: np.ndarray) -> int:
        """The square into ``out`` [3, size, size] uint8. Returns: the number of the table that normalises it."""


class PillowCropper:
    """Pillow's own filter, as the reference has it."""

    def crop(self, image: Image.Image, box: Box, size: int) -> Image.Image:
        return crop_and_resize(image, box, size)

    def crop_levels(self, image: Image.Image, box: Box, size: int, mirrored: bool, out: np.ndarray) -> int:
        out[:] = _channels(_flip(crop_and_resize(image, box, size), mirrored))
        return DIVIDED


PILLOW_CROPPER = PillowCropper()


def augment(
    image: Image.Image,
    size: int,
    draw: random.Random,
    spec: AugmentationSpec,
    fit: Fit = "crop",
    cropper: Cropper = PILLOW_CROPPER,
) -> np.ndarray:
    """``augment_levels``, normalised → [3, size, size] float32."""
    levels = np.empty((1, 3, size, size), np.uint8)
    return normalise_levels(levels, [augment_levels(image, size, draw, spec, levels[0], fit, cropper)])[0]


def augment_levels(
    image: Image.Image,
    size: int,
    draw: random.Random,
    spec: AugmentationSpec,
    out: np.ndarray,
    fit: Fit = "crop",
    cropper: Cropper = PILLOW_CROPPER,
) -> int:
    """Random crop, then what ``spec`` asks for, into ``out`` [3, size, size] uint8.

    Returns: the number of the table that normalises it.
    """
    if fit == "pad":
        image = pad_to_square(image, max(CropNeed(size, spec.crop_scale[0], fit).smallest_size(*image.size)))
    changes = draw_changes(draw, *image.size, spec, fit)
    ground = changes.ground if changes.ground is not None and has_white_border(image) else None
    if ground is None and not changes.grey and not changes.colours:
        table = cropper.crop_levels(image, changes.box, size, changes.mirrored, out)
    else:
        square = _flip(cropper.crop(image, changes.box, size), changes.mirrored)
        square = square if ground is None else recolour_ground(square, ground)
        out[:] = _channels(square.convert("L") if changes.grey else _change_colours(square, changes.colours))
        table = DIVIDED
    if changes.channels is not None:
        out[:] = out[list(changes.channels)]
    if changes.inverted:
        # HSL's lightness becomes its complement; hue and chroma stay
        shift = 255 - out.max(axis=0).astype(np.int16) - out.min(axis=0)
        out[:] = out + shift  # within 0 and 255: the largest channel becomes 255 minus the smallest
    return table


class ImageChanges(NamedTuple):
    """The random choices for one image.

    Attributes:
        colours: number of a colour enhancer and its factor, in order.
        channels: order of the colour channels; none: as they are.
        ground: colour of a white ground; none: white.
    """

    box: Box
    mirrored: bool
    grey: bool
    colours: tuple[tuple[int, float], ...]
    channels: tuple[int, ...] | None
    inverted: bool
    ground: tuple[int, ...] | None


def draw_changes(draw: random.Random, width: int, height: int, spec: AugmentationSpec, fit: Fit) -> ImageChanges:
    """Draws nothing for what the spec leaves off, so that the choices of specs without newer fields stay the same."""

    def happens(probability: float) -> bool:
        return bool(probability) and draw.random() < probability

    make_box = squashed_box if fit == "squash" else random_box
    box = make_box(draw, width, height, spec.crop_scale)
    mirrored, grey = happens(spec.flip_probability), happens(spec.grey_probability)
    colours: list[tuple[int, float]] = []
    if not grey and (strength := spec.colour_jitter):
        numbers = draw.sample(range(len(_COLOUR_ENHANCERS)), len(_COLOUR_ENHANCERS))
        colours = [(number, draw.uniform(1 - strength, 1 + strength)) for number in numbers]
    channels = tuple(draw.sample(range(3), 3)) if happens(spec.channel_permutation) else None
    inverted = happens(spec.invert)
    ground = None
    if happens(spec.background):
        levels = draw.choice(_GROUND_LEVELS)
        ground = tuple(draw.choice(levels) for _ in range(3))
    return ImageChanges(box, mirrored, grey, tuple(colours), channels, inverted, ground)


def has_white_border(image: Image.Image) -> bool:
    """Whether all outermost pixels of an RGB image are white, or nearly so."""
    levels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    edges = (levels[0], levels[-1], levels[:, 0], levels[:, -1])
    return all(bool((edge >= _WHITE).all()) for edge in edges)


def recolour_ground(image: Image.Image, colour: Sequence[int]) -> Image.Image:
    """Give the ground a colour: pixels from which white pixels lead to an edge, straight along a row or a column.

    At the soft outline of a drawing the colour fades as white does, so no white fringe stays.
    """
    levels = np.asarray(image).astype(np.float32)
    white = np.clip((levels.min(axis=2) - _INK) / np.float32(255 - _INK), 0, 1)
    ground = np.zeros_like(white)
    for axis in (0, 1):
        ahead = np.multiply.accumulate(white, axis=axis)
        behind = np.flip(np.multiply.accumulate(np.flip(white, axis), axis=axis), axis)
        np.maximum(ground, np.maximum(ahead, behind), out=ground)
    levels += ground[:, :, None] * (np.array(colour, np.float32) - 255)
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _flip(image: Image.Image, mirrored: bool) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def _change_colours(image: Image.Image, colours: Sequence[tuple[int, float]]) -> Image.Image:
    """Brightness, contrast and saturation, each times its factor, in this order."""
    image = image.convert("RGB")
    for number, factor in colours:
        image = _COLOUR_ENHANCERS[number](image).enhance(factor)
    return image
