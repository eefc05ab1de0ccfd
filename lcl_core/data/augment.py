"""The stronger, optional augmentation: mirror images and other colours on top of the random crop.

Pre-training on few pictures of few artists learns their palettes by heart; drawings by others then look foreign.
"""

from __future__ import annotations

import random
from typing import Protocol

import numpy as np
from PIL import Image, ImageEnhance

from lcl_core.data.transforms import Box, crop_and_resize, normalise, random_box
from lcl_core.specs import AugmentationSpec

_COLOUR_CHANGES = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class Cropper(Protocol):
    """Cuts a box (left, top, right, bottom) out of a picture and makes it a square."""

    def picture(self, image: Image.Image, box: Box, size: int) -> Image.Image:
        """The square as a picture, to be changed further."""

    def pixels(self, image: Image.Image, box: Box, size: int, mirrored: bool, out: np.ndarray) -> None:
        """The square, normalised, into ``out`` [3, size, size] float32."""


class PillowCropper:
    """Pillow's own filter, as the reference has it."""

    def picture(self, image: Image.Image, box: Box, size: int) -> Image.Image:
        return crop_and_resize(image, box, size)

    def pixels(self, image: Image.Image, box: Box, size: int, mirrored: bool, out: np.ndarray) -> None:
        normalise(_mirrored(crop_and_resize(image, box, size), mirrored), out)


PILLOW = PillowCropper()


def augment(
    image: Image.Image,
    size: int,
    draw: random.Random,
    spec: AugmentationSpec,
    out: np.ndarray | None = None,
    cropper: Cropper = PILLOW,
) -> np.ndarray:
    """Random crop, then what ``spec`` asks for, then normalise → [3, size, size] float32, into ``out`` if given.

    With nothing but ``crop_scale`` set it draws and returns exactly what ``train_transform`` does.
    """
    pixels = np.empty((3, size, size), np.float32) if out is None else out
    box = random_box(draw, *image.size, spec.crop_scale)
    mirrored = bool(spec.flip_probability) and draw.random() < spec.flip_probability
    grey = bool(spec.grey_probability) and draw.random() < spec.grey_probability
    if not grey and not spec.colour_jitter:
        cropper.pixels(image, box, size, mirrored, pixels)
        return pixels
    picture = _mirrored(cropper.picture(image, box, size), mirrored)
    picture = picture.convert("L").convert("RGB") if grey else _recoloured(picture, draw, spec.colour_jitter)
    return normalise(picture, pixels)


def _mirrored(picture: Image.Image, mirrored: bool) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture


def _recoloured(picture: Image.Image, draw: random.Random, strength: float) -> Image.Image:
    """Brightness, contrast and saturation, each times a factor in 1 ± strength, in random order."""
    picture = picture.convert("RGB")
    for change in draw.sample(_COLOUR_CHANGES, len(_COLOUR_CHANGES)):
        picture = change(picture).enhance(draw.uniform(1 - strength, 1 + strength))
    return picture
