"""Images and texts as the encoders of Latent Compression Learning were trained on them. Needs neither torch nor lcl."""

from __future__ import annotations

import html

import numpy as np
from PIL import Image, ImageOps

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def pixels(image: Image.Image, size: int, fit: str = "crop") -> np.ndarray:
    """Upright RGB, made square (bicubic) as ``fit`` of ``processor_config.json`` says → [3, size, size] float32."""
    square = _square(upright_rgb(image), size, fit)
    levels = np.asarray(square, np.float32) / np.float32(255)
    return ((levels - MEAN) / STD).transpose(2, 0, 1)


def _square(image: Image.Image, size: int, fit: str) -> Image.Image:
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    if fit == "pad":
        scale = size / max(image.size)
        inner = image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.BICUBIC)
        levels = np.asarray(inner)
        border = np.concatenate((levels[0], levels[-1], levels[:, 0], levels[:, -1]))
        square = Image.new("RGB", (size, size), tuple(int(level) for level in np.median(border, axis=0)))
        square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return square
    long = max(size, int(size * max(image.size) / min(image.size)))
    width, height = (size, long) if image.width <= image.height else (long, size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def upright_rgb(image: Image.Image) -> Image.Image:
    """RGB of any image as it was trained on: turned as its EXIF says, transparency over white, the high byte of 16."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def clean(text: str) -> str:
    """Mend mojibake, resolve HTML entities twice, collapse whitespace, lower-case."""
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy  # only such texts need it: pip install ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
