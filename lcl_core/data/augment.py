"""The stronger, optional augmentation: mirror images and other colours on top of the random crop.

Pre-training on few pictures of few artists learns their palettes by heart; drawings by others then look foreign.
"""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageEnhance

from lcl_core.data.transforms import crop_and_resize, normalise, random_box
from lcl_core.specs import AugmentationSpec

_COLOUR_CHANGES = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def augment(
    image: Image.Image, size: int, draw: random.Random, spec: AugmentationSpec, out: np.ndarray | None = None
) -> np.ndarray:
    """Random crop, then what ``spec`` asks for, then normalise → [3, size, size] float32, into ``out`` if given.

    With nothing but ``crop_scale`` set it draws and returns exactly what ``train_transform`` does.
    """
    picture = crop_and_resize(image, random_box(draw, *image.size, spec.crop_scale), size)
    if spec.flip_probability and draw.random() < spec.flip_probability:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if spec.grey_probability and draw.random() < spec.grey_probability:
        picture = picture.convert("L").convert("RGB")
    elif spec.colour_jitter:
        picture = _recoloured(picture, draw, spec.colour_jitter)
    return normalise(picture, out)


def _recoloured(picture: Image.Image, draw: random.Random, strength: float) -> Image.Image:
    """Brightness, contrast and saturation, each times a factor in 1 ± strength, in random order."""
    picture = picture.convert("RGB")
    for change in draw.sample(_COLOUR_CHANGES, len(_COLOUR_CHANGES)):
        picture = change(picture).enhance(draw.uniform(1 - strength, 1 + strength))
    return picture
