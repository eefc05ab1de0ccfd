"""The crop and resize of training images by torch's vector instructions: three to five times as fast as Pillow's.

The filter is Pillow's own (bicubic with antialiasing, on 8-bit levels, each axis rounded for itself); a value in some
hundred comes out a level higher or lower, seldom two. It knows torch, so only the stream of training imports it.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from lcl_core.data.transforms import MULTIPLIED, PILLOW_CROPPER, Box


class TorchCropper:
    """A :class:`lcl_core.data.transforms.Cropper`. Images that are not RGB go through Pillow."""

    def crop(self, image: Image.Image, box: Box, size: int) -> Image.Image:
        if image.mode != "RGB":
            return PILLOW_CROPPER.crop(image, box, size)
        return Image.fromarray(_crop_and_resize(image, box, size).permute(1, 2, 0).numpy())

    def crop_levels(self, image: Image.Image, box: Box, size: int, mirrored: bool, out: np.ndarray) -> int:
        if image.mode != "RGB":
            return PILLOW_CROPPER.crop_levels(image, box, size, mirrored, out)
        square = _crop_and_resize(image, box, size).numpy()
        out[:] = square[:, :, ::-1] if mirrored else square
        return MULTIPLIED


def _crop_and_resize(image: Image.Image, box: Box, size: int) -> Tensor:
    """uint8 [3, size, size]."""
    left, top, right, bottom = box
    part = np.asarray(image)[top:bottom, left:right].copy()  # torch wants it writable, and in one chunk
    pixels = torch.from_numpy(part).permute(2, 0, 1).unsqueeze(0)
    return interpolate(pixels, (size, size), mode="bicubic", antialias=True, align_corners=False)[0]
