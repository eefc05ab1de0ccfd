"""Where an encoder looks, drawn over the picture: grey, and warm where much weight lies."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ui.html import esc, heading

SIDE = 280  # pixels of the picture
SMOOTH = 8  # pixels of a patch in the glow
GLOW, STRONGEST = (234, 88, 12), 0.8  # orange, which neither black nor white pictures hide
Weights = Sequence[Sequence[float]]


def draw_attention(image: bytes, found: Mapping[str, Any]) -> str:
    """The part of the picture that the encoder sees under the mean of its heads, and small under each head."""
    heads: Sequence[Weights] = found.get("heads") or ()
    small = "".join(f"<li>{_figure(head, f'Head {number}')}</li>" for number, head in enumerate(heads, 1))
    each = f'<ul class="lcl-look__heads" aria-label="Each head">{small}</ul>' if len(heads) > 1 else ""
    return heading("Where the encoder looks", _spread(found["mean"])) + (
        f'<div class="lcl-look" style="--picture: url({_seen(image, found["box"])})">'
        f"{_figure(found['mean'], 'Mean of the heads')}{each}</div>"
    )


def _figure(weights: Weights, name: str) -> str:
    words = f"{name}: most weight {place_of(weights)}"
    return (
        f'<figure title="{esc(words)}"><div role="img" aria-label="{esc(words)}">'
        f'<img src="{_glow(weights)}" alt=""></div><figcaption>{esc(name)}</figcaption></figure>'
    )


def place_of(weights: Weights) -> str:
    """Where the largest weight is, in words: ``at the upper left``, ``in the middle``."""
    grid = np.asarray(weights)
    row, column = (int(at) for at in np.unravel_index(int(grid.argmax()), grid.shape))
    down = ("upper", "", "lower")[3 * row // grid.shape[0]]
    across = ("left", "", "right")[3 * column // grid.shape[1]]
    return f"at the {' '.join(filter(None, (down, across)))}" if down or across else "in the middle"


def _spread(weights: Weights) -> str:
    """How much of the picture the encoder attends to."""
    largest_first = -np.sort(-np.asarray(weights).ravel())
    half = int(np.searchsorted(largest_first.cumsum(), largest_first.sum() / 2)) + 1
    return f"Half of the weight lies on {half} of {largest_first.size} patches; the warmer a patch, the more it counts."


def _seen(image: bytes, box: Sequence[float]) -> str:
    """That part of the picture, without its colours, over white."""
    with Image.open(io.BytesIO(image)) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGBA")
    left, top, right, bottom = box
    width, height = picture.size
    part = (left * width, top * height, right * width, bottom * height)
    square = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=part)
    white = Image.new("RGBA", square.size, "white")
    return _data_url(Image.alpha_composite(white, square).convert("L").convert("RGB"), "webp")


def _glow(weights: Weights) -> str:
    grid = np.asarray(weights, np.float32)
    size = (grid.shape[1] * SMOOTH, grid.shape[0] * SMOOTH)
    alpha = Image.fromarray((255 * STRONGEST * grid / grid.max()).astype(np.uint8))
    glow = Image.new("RGBA", size, GLOW)
    glow.putalpha(alpha.resize(size, Image.Resampling.BICUBIC))
    return _data_url(glow, "png")


def _data_url(image: Image.Image, kind: str) -> str:
    out = io.BytesIO()
    image.save(out, kind)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
