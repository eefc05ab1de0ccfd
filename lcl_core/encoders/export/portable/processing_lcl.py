"""Images and texts to tensors for the encoders of Latent Compression Learning, without ``lcl_core``.

This file lies beside the weights. ``from_pretrained(DIR, trust_remote_code=True)`` of ``AutoProcessor`` and of
``AutoTokenizer`` run it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers import BatchFeature, PreTrainedTokenizer, ProcessorMixin
from transformers.utils import cached_file

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
START, END = "<start_of_text>", "<end_of_text>"
TOKENIZER, PROCESSOR = "tokenizer.json", "processor_config.json"
# arguments of from_pretrained that say where files are
LOCATION = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")


class PortableTokenizer(PreTrainedTokenizer):
    """Clean texts to rows ``sot text eot``, right-padded with the id 0.

    Special tokens written out in a text are ordinary text. No attention mask: a text ends at its first ``eot``.
    """

    vocab_files_names = {"tokenizer_file": TOKENIZER}  # noqa: RUF012 - as its base class declares it
    model_input_names = ["input_ids"]  # noqa: RUF012
    _auto_class = "AutoTokenizer"  # so that a saved directory has this file

    def __init__(self, tokenizer_file: str | Path, **settings: Any) -> None:
        self._inner = Tokenizer.from_file(str(tokenizer_file))
        own = {"bos_token": START, "eos_token": END, "pad_token": self._inner.id_to_token(0)}
        super().__init__(**{**settings, **own, "split_special_tokens": True})

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size()

    def get_vocab(self) -> dict[str, int]:
        return self._inner.get_vocab()

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return self._inner.encode(clean(text), add_special_tokens=False).tokens

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._inner.token_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._inner.id_to_token(index) or ""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self._inner.decoder.decode(tokens).strip()

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Raises: ValueError for a pair of texts."""
        if token_ids_1 is not None:
            raise ValueError("text_pair: the encoder reads one text at a time; give a list of texts")
        return [self.bos_token_id, *token_ids_0, self.eos_token_id]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        path = Path(save_directory, f"{filename_prefix}-{TOKENIZER}" if filename_prefix else TOKENIZER)
        self._inner.save(str(path), pretty=False)
        return (str(path),)


class PortableProcessor(ProcessorMixin):
    """Resize, crop and normalise images; tokenize texts as ``sot text eot``."""

    attributes: ClassVar[list[str]] = ["tokenizer"]  # which transformers 4 reads, and 5 finds in the constructor
    tokenizer_class = "AutoTokenizer"
    _auto_class = "AutoProcessor"

    def __init__(self, tokenizer: PortableTokenizer, image_size: int) -> None:
        super().__init__(tokenizer)
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
            features["input_ids"] = self._ids([text] if isinstance(text, str) else list(text))
        return BatchFeature(features)

    def _ids(self, texts: list[str]) -> torch.Tensor:
        if not texts:  # which the tokenizer refuses to pad
            return torch.zeros(0, 0, dtype=torch.int64)
        return self.tokenizer(texts, padding=True, return_tensors="pt", verbose=False)["input_ids"]

    def to_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """``processor_config.json``. Where ``lcl`` is installed, its own class under this name is taken."""
        return {**super().to_dict(), "processor_class": "LCLProcessor"}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings: Any) -> PortableProcessor:  # type: ignore[override]
        """Read ``processor_config.json`` and the tokenizer, of a directory or of the hub. Raises: OSError."""
        source = str(pretrained_model_name_or_path)
        location = {key: settings[key] for key in LOCATION if key in settings}
        path = str(cached_file(source, PROCESSOR, **location))
        image_size = json.loads(Path(path).read_text(encoding="utf-8"))["image_size"]
        return cls(PortableTokenizer.from_pretrained(source, **location), image_size)


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
