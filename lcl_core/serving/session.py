"""One encoder in memory: pictures and texts to vectors, pictures and documents to text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from lcl_core.data.transforms import eval_box
from lcl_core.errors import UserError
from lcl_core.interop.encoder_schema import loadable
from lcl_core.interop.identity import hash_of_file
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.model.prefixes import caption_prefix, document_prefix
from lcl_core.serving.options import CaptionOptions
from lcl_core.serving.pages import Page, lay_page
from lcl_core.serving.prepared import Prepared
from lcl_core.serving.readers import Reader
from lcl_core.serving.rounding import with_rounded_products
from lcl_core.serving.writing import Written, write_texts
from lcl_core.train.device import Precision, autocast, computes_in

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CHUNK = 256  # pictures or texts a forward pass; bounds the memory of a long list
TEXT_CONTEXT = 77  # tokens of a query, as the paper's encode_text


class EncoderSession:
    """Load once, use often; not batched across callers (see BatchingSession). Nothing here keeps a gradient.

    Args:
        directory: what ``LCLModel.save_pretrained`` and ``LCLProcessor.save_pretrained`` wrote.
        device: ``auto`` (a GPU when there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the vectors' products: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware multiplies it.
            Captions are written in fp32.
        warm_up: run the model once, so that the first request is as fast as the others and a damaged encoder
            is found now.
        file_hashes: sha256 of the directory's files by name, by who has read them already.

    Attributes:
        file_hashes: the same; empty where nobody has.

    Raises:
        UserError: ``encoder_unreadable``, ``encoder_unhealthy``, ``bad_device``.
    """

    def __init__(
        self,
        directory: str | Path,
        device: str = "auto",
        *,
        precision: Precision = "fp32",
        warm_up: bool = True,
        file_hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.file_hashes = dict(file_hashes or {})
        self.device = pick_device(device)
        self.precision: Precision = precision
        self.hash = self._open()
        if warm_up:
            self.health()

    def _open(self) -> str:
        """Read what is saved there; returns the hash of the weights."""
        digest = self.file_hashes.get(WEIGHTS) or weights_hash(self.directory)
        self.model, self.processor = _load(self.directory)
        self.model.eval().requires_grad_(False).to(self.device)
        halves = computes_in(self.device, self.precision) == torch.bfloat16
        self._towers = with_rounded_products(self.model) if halves else self.model
        return digest

    def drop_vision(self) -> None:
        """Give the memory of what only pictures need back: ``embed_texts`` alone works from then on."""
        for model in {self.model, self._towers}:  # one and the same in fp32
            del model.visual

    @property
    def dim(self) -> int:
        """E, the width of the vectors."""
        return self.model.config.embed_dim

    @property
    def reads_texts(self) -> bool:
        """Are there vectors of texts, too?"""
        return True

    @property
    def image_tokens(self) -> int:
        """Patch tokens that a picture is cut into."""
        return self.model.config.num_image_tokens

    @property
    def text_limit(self) -> int:
        """Tokens of a text that are read; the rest is cut off."""
        return min(TEXT_CONTEXT, self.model.config.context_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads, start and end included."""
        encode = self.processor.tokenizer.encode
        return [min(len(encode(text)) + 2, self.text_limit) for text in texts]

    @property
    def preparing_bytes(self) -> int:
        """Bytes that ``preprocess`` takes for each pixel of an image, beside the image: ours shrinks it at once."""
        return 0

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """f32 [n, 3, S, S] on the CPU, as the model sees them in evaluation."""
        return self.processor.preprocess(list(images))

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """f32 [n, E], L2-normalised."""
        parts = [self.embed_pixels(self.preprocess(chunk)) for chunk in _chunks(images)]
        return np.concatenate(parts) if parts else self._no_vectors()

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> np.ndarray:
        """[n, 3, S, S] → f32 [n, E], L2-normalised."""
        with autocast(self.device, self.precision):
            return _normalised(self._see(pixels.to(self.device, non_blocking=True)))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32 [n, E], L2-normalised: each text as the context of a picture that would come next."""
        with autocast(self.device, self.precision):
            parts = [_normalised(self._read(chunk)) for chunk in _chunks(texts)]
        return np.concatenate(parts) if parts else self._no_vectors()

    def _see(self, pixels: Tensor) -> Tensor:
        return self._towers.get_image_features(pixel_values=pixels)

    def _read(self, texts: Sequence[str]) -> Tensor:
        ids = self.processor.encode_texts(list(texts)).to(self.device)
        return self._towers.get_text_features(input_ids=ids, context_length=self.text_limit)

    def caption(self, images: Sequence[Image.Image], **decoding: Any) -> list[str]:
        """One caption a picture. ``decoding``: CaptionOptions' fields. Raises: UserError ``bad_decoding``."""
        options = CaptionOptions(**decoding)
        found: list[str] = []
        for chunk in _chunks(images):
            seeds = range(options.seed + len(found), options.seed + len(found) + len(chunk))
            found += _in_order(self.write_captions(self.preprocess(chunk), options, seeds, [Reader() for _ in chunk]))
        return found

    def continue_document(self, parts: Sequence[str | Image.Image], **decoding: Any) -> str:
        """What comes after texts and pictures. Raises: UserError ``bad_decoding``, ``document_too_long``."""
        options = CaptionOptions(**decoding)
        return _in_order(self.write_on(self.lay(parts), options, Reader()))[0]

    def lay(self, parts: Sequence[str | Image.Image | Prepared]) -> Page:
        """A document as the model reads it, on the CPU. Raises: UserError ``document_too_long``."""
        return lay_page(self.model.config, self.processor, parts)

    def write_captions(
        self, pixels: Tensor, options: CaptionOptions, seeds: Sequence[int], readers: Sequence[Reader]
    ) -> Iterator[Written]:
        """[n, 3, S, S] → step by step, which captions are complete. Raises: UserError ``prompt_too_long``."""
        prefix = caption_prefix(self.model, self.processor, pixels.to(self.device), options.prompt, options.context)
        return write_texts(self.model, self.processor, prefix, options, seeds, readers)

    def write_on(self, page: Page, options: CaptionOptions, reader: Reader) -> Iterator[Written]:
        """A continuation as ``write_captions`` writes captions, of one row."""
        prefix = document_prefix(self.model, page.ids, page.pixels.to(self.device))
        return write_texts(self.model, self.processor, prefix, options, [options.seed], [reader])

    def box(self, image: Image.Image) -> tuple[float, float, float, float]:
        """The part of a picture that the model sees: left, top, right, bottom as shares of its width and height."""
        return eval_box(image, self.model.config.image_size)

    @torch.inference_mode()
    def attend(self, pixels: Tensor) -> np.ndarray:
        """[n, 3, S, S] → f32 [n, heads, rows, columns]: how much each patch weighs in the vector; heads sum to 1."""
        weights = self.model.pool_project.attention(self.model.visual(pixels.to(self.device)))
        side = self.model.config.image_size // self.model.config.patch_size
        return weights.unflatten(2, (side, side)).float().cpu().numpy()

    def health(self) -> dict[str, Any]:
        """Run both towers on a grey picture and a word; milliseconds and device.

        Raises:
            UserError: ``encoder_unhealthy`` if what comes out is not a unit vector.
        """
        started = time.perf_counter()
        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        asked = [self.embed_images([grey]), *([self.embed_texts(["a picture"])] if self.reads_texts else [])]
        vectors = np.concatenate(asked)
        lengths = np.linalg.norm(vectors, axis=1)
        if not np.allclose(lengths, 1, atol=1e-3):
            message = f"the encoder's vectors have lengths {lengths.tolist()}, not 1; its weights are damaged"
            raise UserError(message, code="encoder_unhealthy", file=self.directory)
        return {"device": str(self.device), "milliseconds": round((time.perf_counter() - started) * 1000, 1)}

    def _no_vectors(self) -> np.ndarray:
        return np.empty((0, self.dim), np.float32)


def _normalised(features: Tensor) -> np.ndarray:
    """f32 of length 1, also where bf16 has rounded them."""
    return F.normalize(features.float(), dim=-1).cpu().numpy()


def pick_device(device: str) -> torch.device:
    """``auto`` → a GPU when there is one. Raises: UserError ``bad_device``."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        message = f"device {device!r} cannot be used here; choose auto or cpu"
        raise UserError(message, code="bad_device", field="device") from error
    return picked


def weights_hash(directory: Path) -> str:
    """SHA-256 of the weights. Raises: UserError ``encoder_unreadable``."""
    path = directory / WEIGHTS
    try:
        return hash_of_file(path)
    except OSError as error:
        message = f"the weights cannot be read ({error.strerror}); give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", file=path) from error


def _load(directory: Path) -> tuple[LCLModel, LCLProcessor]:
    if not (directory / CONFIG).is_file():  # transformers would take the default sizes
        message = "there is no config.json beside the weights; give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", file=directory / CONFIG)
    loadable(directory)
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = LCLModel.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        processor = LCLProcessor.from_pretrained(directory)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        message = f"the encoder cannot be loaded ({reason}); give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", file=directory) from error
    model, info = loaded
    names = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if names:  # transformers would fill in random weights
        message = f"the weights do not belong to config.json ({len(names)} names differ, first {names[0]!r})"
        raise UserError(message, code="encoder_unreadable", file=directory / WEIGHTS)
    return model, processor


def _in_order(steps: Iterator[Written]) -> list[str]:
    """The texts of all rows, when all steps have been made."""
    return [text for _, text in sorted(row for written in steps for row in written)]


def _chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
