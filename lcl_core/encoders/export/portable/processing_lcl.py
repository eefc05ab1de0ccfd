"""Images and texts to tensors for the encoders of Latent Compression Learning, without ``lcl_core``.

This file lies beside the weights, and ``AutoProcessor.from_pretrained(DIR, trust_remote_code=True)`` runs it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers import BatchFeature, ProcessorMixin

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
START, END = "<start_of_text>", "<end_of_text>"


class PortableProcessor(ProcessorMixin):
    """Resize, crop and normalise images; tokenize texts as ``sot text eot``."""

    def __init__(self, tokenizer: Tokenizer, image_size: int) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image] | None = None,
        text: str | Sequence[str] | None = None,
        **_: Any,
    ) -> BatchFeature:
        """``pixel_values`` [n, 3, S, S] and / or ``input_ids`` [n, L]."""
        features: dict[str, Any] = {}
        if images is not None:
            given = [images] if isinstance(images, Image.Image) else images
            features["pixel_values"] = torch.from_numpy(np.stack([pixels(image, self.image_size) for image in given]))
        if text is not None:
            features["input_ids"] = self._ids([text] if isinstance(text, str) else text)
        return BatchFeature(features)

    def _ids(self, texts: Sequence[str]) -> torch.Tensor:
        start, end = self.tokenizer.token_to_id(START), self.tokenizer.token_to_id(END)
        rows = [[start, *self.tokenizer.encode(clean(text), add_special_tokens=False).ids, end] for text in texts]
        longest = max(map(len, rows), default=0)
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **_: Any) -> PortableProcessor:  # type: ignore[override]
        """Read ``tokenizer.json`` and ``processor_config.json`` of a directory."""
        source = Path(pretrained_model_name_or_path)
        settings = json.loads((source / "processor_config.json").read_text(encoding="utf-8"))
        return cls(Tokenizer.from_file(str(source / "tokenizer.json")), settings["image_size"])


def pixels(image: Image.Image, size: int) -> np.ndarray:
    """Upright RGB, shortest side to ``size`` (bicubic), central square, normalise → [3, size, size] float32."""
    image = upright_rgb(image)
    long = max(size, int(size * max(image.size) / min(image.size)))
    width, height = (size, long) if image.width <= image.height else (long, size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    square = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    levels = np.asarray(square, np.float32) / np.float32(255)
    return ((levels - MEAN) / STD).transpose(2, 0, 1)


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
