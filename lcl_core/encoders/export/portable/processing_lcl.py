"""Images and texts to tensors for the encoders of Latent Compression Learning, without ``lcl_core``.

This file lies beside the weights. ``from_pretrained(DIR, trust_remote_code=True)`` of ``AutoProcessor``,
``AutoImageProcessor`` and ``AutoTokenizer`` run it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import BatchFeature, ImageProcessingMixin, PreTrainedTokenizer, ProcessorMixin
from transformers.processing_utils import ImagesKwargs
from transformers.utils import cached_file

from lcl_core.encoders.export.portable.preprocessing_lcl import clean, pixels

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


class PortableImageProcessor(ImageProcessingMixin):
    """Make images square and normalise them, for what reads images alone, as pipelines do."""

    model_input_names = ["pixel_values"]  # noqa: RUF012
    valid_kwargs = ImagesKwargs  # which transformers 5 reads
    _auto_class = "AutoImageProcessor"
    crop_size: dict[str, int]  # this and fit: of ``preprocessor_config.json``
    fit: str

    def __call__(self, images: Image.Image | Sequence[Image.Image], **_: Any) -> BatchFeature:
        """``pixel_values`` [n, 3, S, S]."""
        given = [images] if isinstance(images, Image.Image) else images
        squares = np.stack([pixels(image, self.crop_size["height"], self.fit) for image in given])
        return BatchFeature({"pixel_values": torch.from_numpy(squares)})


class PortableProcessor(ProcessorMixin):
    """Make images square and normalise them; tokenize texts as ``sot text eot``."""

    attributes: ClassVar[list[str]] = ["tokenizer"]  # which transformers 4 reads, and 5 finds in the constructor
    tokenizer_class = "AutoTokenizer"
    _auto_class = "AutoProcessor"

    def __init__(self, tokenizer: PortableTokenizer, image_size: int, fit: str) -> None:
        super().__init__(tokenizer)
        self.image_size, self.fit = image_size, fit

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
            squares = np.stack([pixels(image, self.image_size, self.fit) for image in given])
            features["pixel_values"] = torch.from_numpy(squares)
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
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        tokenizer = PortableTokenizer.from_pretrained(source, **location)
        return cls(tokenizer, stored["image_size"], stored.get("fit", "crop"))
