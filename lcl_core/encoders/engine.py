"""Encoder engine: images and texts to vectors, images and documents to generated text.

One engine holds one encoder on one device and is used by one thread at a time; ``serving.batched_engine`` shares it
between clients. ``estimate_memory`` computes its size from the headers of the weights before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.device import (
    SERVED_SHAPES,
    Precision,
    autocast,
    compute_dtype,
    limit_onednn_cache,
    pick_device,
)
from lcl_core.common.errors import UserError, tokenizer_errors
from lcl_core.encoders.captioning import FinishedTexts, GenerationConfig, StreamListener
from lcl_core.encoders.files import Hashes, check_unchanged, hash_files, tensor_sizes
from lcl_core.encoders.lcl import LCLEncoder, is_precast
from lcl_core.encoders.registry import detect_encoder, load_image_encoder

BATCH_SIZE = 256  # images or texts a forward pass; bounds the memory of a long list
_LONGEST_CONTEXT = 1 << 13  # tokens; a text encoder that reads more is taken for one without a limit
FP32, BF16 = 4, 2  # bytes a number: every encoder is kept in fp32, whatever its file is in; its precast copy in bf16


class EncoderEngine:
    """Load once, use often; not batched across callers (see BatchedEngine). Nothing here keeps a gradient.

    Args:
        directory: of a saved encoder, ours or another library's.
        device: ``auto`` (a GPU when there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the matrix products behind vectors: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware
            multiplies it. Texts are generated in fp32.
        warm_up: run the model once, so that the first request is as fast as the others and damaged weights are found.
        registered: sha256 of its files by name, as registered; files with another content are refused.

    Attributes:
        encoder: the encoder.
        hash: sha256 of its weights.
        file_hashes: sha256 of the directory's data files by name.

    Raises:
        UserError: ``encoder_unreadable``, ``encoder_changed``, ``invalid_value``; ``unsupported`` for an encoder
            without pooled latents.
    """

    def __init__(
        self,
        directory: str | Path,
        device: str = "auto",
        *,
        precision: Precision = "fp32",
        warm_up: bool = True,
        registered: Hashes | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.precision: Precision = precision
        self.device = parse_device(device)
        self.file_hashes = hash_files(self.directory)
        if registered:
            check_unchanged(registered, self.file_hashes)
        self.encoder = load_image_encoder(self.directory, self.file_hashes).fold_norms().to(self.device)
        if self.encoder.embed_dim is None:
            message = "this encoder has no pooled latents of images; it can be evaluated, but not served"
            raise UserError(message, code="unsupported", file=self.directory)
        self.dim: int = self.encoder.embed_dim  # E, the width of the vectors
        self.hash = self.encoder.weights_hash
        self._vectors = self.encoder.for_dtype(compute_dtype(self.device, precision))
        if warm_up:
            self.health()
            _ = self.text_limit  # found now, since the event loop asks for it

    @property
    def reads_texts(self) -> bool:
        return self.encoder.text_encoder is not None

    @property
    def lcl_encoder(self) -> LCLEncoder:
        """The encoder, if it is one of ours: those generate text.

        Raises: UserError ``unsupported``.
        """
        if isinstance(self.encoder, LCLEncoder):
            return self.encoder
        message = "this encoder writes no text; an encoder that lcl pre-trained does"
        raise UserError(message, code="unsupported", field="model")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens read of each text, start and end included; 0 where the encoder reads none."""
        if not texts or self.encoder.text_encoder is None:
            return [0 for _ in texts]
        with tokenizer_errors():
            return self.encoder.text_encoder.count_tokens(texts)

    @cached_property
    def text_limit(self) -> int | None:
        """Tokens that the encoder reads of any text; what is longer is cut. None: no text fills it."""
        tokens, of_twice_the_text = self.count_tokens(["a " * _LONGEST_CONTEXT, "a " * (2 * _LONGEST_CONTEXT)])
        return tokens if tokens == of_twice_the_text > 0 else None

    def filled_context(self, text: str) -> int | None:
        """:attr:`text_limit`, where this text fills it."""
        return self.text_limit if self.count_tokens([text]) == [self.text_limit] else None

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """f32 [n, 3, S, S] on the CPU, by the evaluation transform."""
        return self.encoder.preprocess(list(images))

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """f32 [n, E], L2-normalised."""
        return self._concatenated([self.embed_pixels(self.preprocess(batch)) for batch in _batches(images)])

    def embed_prepared(self, images: Sequence[Tensor]) -> np.ndarray:
        """Images as :meth:`preprocess` makes them, [3, S, S] each → f32 [n, E], L2-normalised."""
        return self._concatenated([self.embed_pixels(torch.stack(list(batch))) for batch in _batches(images)])

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> np.ndarray:
        """[n, 3, S, S] → f32 [n, E], L2-normalised."""
        with autocast(self.device, self.precision):
            pooled, _ = self._vectors.encode(pixels.to(self.device, non_blocking=True))
        assert pooled is not None, "checked when the encoder was loaded"
        return _unit_rows(pooled)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32 [n, E], L2-normalised: each text as the context of an image that would come next.

        Raises: UserError ``no_text_encoder``.
        """
        with autocast(self.device, self.precision), tokenizer_errors(only_panics=True):
            return self._concatenated([self._embed_text_batch(batch) for batch in _batches(texts)])

    def _embed_text_batch(self, texts: Sequence[str]) -> np.ndarray:
        features = self._vectors.encode_texts(texts)
        if features is None:
            message = "this encoder reads images alone; send images, or take an encoder that reads texts"
            raise UserError(message, code="no_text_encoder", field="input")
        return _unit_rows(features)

    def caption(self, images: Sequence[Image.Image], **decoding: Any) -> list[str]:
        """One caption an image. ``decoding``: fields of GenerationConfig. Raises: UserError ``invalid_value``."""
        config = GenerationConfig(**decoding)
        captions: list[str] = []
        for batch in _batches(images):
            seeds = range(config.seed + len(captions), config.seed + len(captions) + len(batch))
            listeners = [StreamListener() for _ in batch]
            captions += _in_row_order(
                self.lcl_encoder.generate_captions(self.preprocess(batch), config, seeds, listeners)
            )
        return captions

    def continue_document(self, parts: Sequence[str | Image.Image], **decoding: Any) -> str:
        """The text after texts and images. Raises: UserError ``invalid_value``, ``too_large``."""
        prompt = self.lcl_encoder.encode_document(parts)
        config = GenerationConfig(**decoding)
        return _in_row_order(self.lcl_encoder.continue_document(prompt, config, StreamListener()))[0]

    def health(self) -> None:
        """Encode a grey image and a word. Raises: UserError ``encoder_unreadable`` for what is no unit vector."""
        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        vectors = [self.embed_images([grey]), *([self.embed_texts(["an image"])] if self.reads_texts else [])]
        lengths = np.linalg.norm(np.concatenate(vectors), axis=1)
        if not np.allclose(lengths, 1, atol=1e-3):
            message = f"the encoder's vectors have lengths {lengths.tolist()}, not 1; its weights are damaged"
            raise UserError(message, code="encoder_unreadable", file=self.directory)

    def _concatenated(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)


def open_engine(
    directory: str | Path, device: str = "auto", precision: Precision = "fp32", registered: Hashes | None = None
) -> EncoderEngine:
    """An EncoderEngine for a long-lived service: oneDNN keeps few kernels, since shapes of requests hardly repeat."""
    limit_onednn_cache(SERVED_SHAPES)
    return EncoderEngine(directory, device, precision=precision, registered=registered)


def estimate_memory(directory: Path, device: str = "auto", precision: Precision = "fp32") -> int:
    """Bytes of the weights as an EncoderEngine keeps them, without those of a batch.

    0 for what cannot be loaded: its loader names the reason.
    """
    try:
        found = detect_encoder(directory)
        names, ours = found.weights, found.kind == "lcl"
    except UserError:
        names, ours = tuple(sorted(path.name for path in directory.glob("*.safetensors"))), True
    copied = ours and compute_dtype(parse_device(device), precision) == torch.bfloat16
    try:
        sizes = [item for name in names for item in tensor_sizes(directory / name).items()]
    except UserError:
        return 0
    return sum(count * (FP32 + BF16 if copied and is_precast(name) else FP32) for name, count in sizes)


def parse_device(device: str) -> torch.device:
    """``auto`` → this process's GPU where there is one. Raises: UserError ``invalid_value``."""
    if device == "auto":
        return pick_device()
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        message = f"device {device!r} cannot be used here; choose auto or cpu"
        raise UserError(message, field="device") from error
    return found


def _unit_rows(features: Tensor) -> np.ndarray:
    """f32 rows of length 1, also where bf16 has rounded them."""
    return F.normalize(features.float(), dim=-1).cpu().numpy()


def _in_row_order(steps: Iterator[FinishedTexts]) -> list[str]:
    return [text for _, text in sorted(row for finished in steps for row in finished)]


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]
