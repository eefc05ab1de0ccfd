"""Encoder engine: images and texts to vectors, images and documents to generated text.

One engine holds one encoder on one device and is used by one thread at a time; ``batched_engine`` shares it between
clients. ``estimate_memory`` predicts its size from the headers of the weights before anything is loaded.
"""

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

from lcl_core.common.device import Precision, autocast, compute_dtype
from lcl_core.common.errors import UserError
from lcl_core.common.system_errors import panics_as_errors, tokenizer_errors
from lcl_core.data.transforms import eval_box
from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.captioning import GenerationConfig, PreparedImage, StreamListener
from lcl_core.encoders.detect import detect_encoder
from lcl_core.encoders.external import ExternalImageEncoder
from lcl_core.encoders.file_hashes import Hashes, check_unchanged, combined_weights_hash, hash_files, sha256_file
from lcl_core.encoders.lcl import (
    DocumentPrompt,
    FinishedTexts,
    encode_document,
    generate_texts,
    is_precast,
    precast_bf16,
)
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.encoders.safetensors_header import tensor_sizes
from lcl_core.encoders.schemas.validate import check_loadable
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.model.generation import caption_prefix, document_prefix

WEIGHTS, CONFIG = "model.safetensors", "config.json"
BATCH_SIZE = 256  # pictures or texts a forward pass; bounds the memory of a long list
QUERY_TOKENS = 77  # tokens of a query, as the paper's encode_text


class EncoderEngine:
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
        self.model, self.processor = _load_lcl(self.directory)
        self.model.eval().requires_grad_(False).to(self.device)
        halves = compute_dtype(self.device, self.precision) == torch.bfloat16
        self._towers = precast_bf16(self.model) if halves else self.model
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
        return min(QUERY_TOKENS, self.model.config.context_length)

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
        parts = [self.embed_pixels(self.preprocess(chunk)) for chunk in _batches(images)]
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
            parts = [_normalised(self._read(chunk)) for chunk in _batches(texts)]
        return np.concatenate(parts) if parts else self._no_vectors()

    def _see(self, pixels: Tensor) -> Tensor:
        return self._towers.get_image_features(pixel_values=pixels)

    def _read(self, texts: Sequence[str]) -> Tensor:
        ids = self.processor.encode_texts(list(texts)).to(self.device)
        return self._towers.get_text_features(input_ids=ids, context_length=self.text_limit)

    def caption(self, images: Sequence[Image.Image], **decoding: Any) -> list[str]:
        """One caption a picture. ``decoding``: CaptionOptions' fields. Raises: UserError ``bad_decoding``."""
        options = GenerationConfig(**decoding)
        found: list[str] = []
        for chunk in _batches(images):
            seeds = range(options.seed + len(found), options.seed + len(found) + len(chunk))
            found += _texts_in_order(
                self.write_captions(self.preprocess(chunk), options, seeds, [StreamListener() for _ in chunk])
            )
        return found

    def continue_document(self, parts: Sequence[str | Image.Image], **decoding: Any) -> str:
        """What comes after texts and pictures. Raises: UserError ``bad_decoding``, ``document_too_long``."""
        options = GenerationConfig(**decoding)
        return _texts_in_order(self.continue_generation(self.encode_document(parts), options, StreamListener()))[0]

    def encode_document(self, parts: Sequence[str | Image.Image | PreparedImage]) -> DocumentPrompt:
        """A document as the model reads it, on the CPU. Raises: UserError ``document_too_long``."""
        return encode_document(self.model.config, self.processor, parts)

    def write_captions(
        self, pixels: Tensor, options: GenerationConfig, seeds: Sequence[int], readers: Sequence[StreamListener]
    ) -> Iterator[FinishedTexts]:
        """[n, 3, S, S] → step by step, which captions are complete. Raises: UserError ``prompt_too_long``."""
        prefix = caption_prefix(self.model, self.processor, pixels.to(self.device), options.prompt, options.context)
        return generate_texts(self.model, self.processor, prefix, options, seeds, readers)

    def continue_generation(
        self, page: DocumentPrompt, options: GenerationConfig, reader: StreamListener
    ) -> Iterator[FinishedTexts]:
        """A continuation as ``write_captions`` writes captions, of one row."""
        prefix = document_prefix(self.model, page.ids, page.pixels.to(self.device))
        return generate_texts(self.model, self.processor, prefix, options, [options.seed], [reader])

    def crop_box(self, image: Image.Image) -> tuple[float, float, float, float]:
        """The part of a picture that the model sees: left, top, right, bottom as shares of its width and height."""
        return eval_box(image, self.model.config.image_size)

    @torch.inference_mode()
    def attention_maps(self, pixels: Tensor) -> np.ndarray:
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
        return sha256_file(path)
    except OSError as error:
        message = f"the weights cannot be read ({error.strerror}); give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", file=path) from error


def _load_lcl(directory: Path) -> tuple[LCLModel, LCLProcessor]:
    if not (directory / CONFIG).is_file():  # transformers would take the default sizes
        message = "there is no config.json beside the weights; give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", file=directory / CONFIG)
    check_loadable(directory)
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


def _texts_in_order(steps: Iterator[FinishedTexts]) -> list[str]:
    """The texts of all rows, when all steps have been made."""
    return [text for _, text in sorted(row for written in steps for row in written)]


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]


_PREPROCESSING_BYTES = 16  # a pixel: other libraries copy the image, as RGB and as arrays, before they shrink it


class ExternalEngine(EncoderEngine):
    """An EncoderSession on a :class:`~lcl_core.encoders.base.ImageEncoder`.

    Raises:
        UserError: also ``no_latents`` for an encoder without pooled latents; when it is asked for what it cannot do,
            ``no_text_encoder``, ``no_captions`` and ``no_attention``.
    """

    tower: ImageEncoder

    def _open(self) -> str:
        self.tower = load_image_encoder(self.directory)
        if self.file_hashes and isinstance(
            self.tower, ExternalImageEncoder
        ):  # the files were hashed already: not once more
            self.tower.weights_hash = combined_weights_hash(self.file_hashes, self.tower.origin.weights)
        self.tower.module.to(self.device)
        if self.tower.text_encoder is not None:
            self.tower.text_encoder.module.to(self.device)
        if self.tower.embed_dim is None:
            message = "this encoder makes no vectors of whole pictures; it can be evaluated, but not served"
            raise UserError(message, code="no_latents", file=self.directory)
        return self.tower.identity["weights"]

    def drop_vision(self) -> None:
        """Nothing: in another library's module both sides may hang together."""

    @property
    def dim(self) -> int:
        assert self.tower.embed_dim is not None, "refused when it was opened"
        return self.tower.embed_dim

    @property
    def reads_texts(self) -> bool:
        return self.tower.text_encoder is not None

    @property
    def image_tokens(self) -> int:
        return self.tower.tokens

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        if not texts or self.tower.text_encoder is None:
            return [0 for _ in texts]
        with tokenizer_errors():
            return self.tower.text_encoder.count_tokens(texts)

    @property
    def preparing_bytes(self) -> int:
        return _PREPROCESSING_BYTES

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        return self.tower.preprocess(list(images))

    def _see(self, pixels: Tensor) -> Tensor:
        pooled, _ = self.tower.encode(pixels)
        assert pooled is not None, "refused when it was opened"
        return pooled

    def _read(self, texts: Sequence[str]) -> Tensor:
        if self.tower.text_encoder is None:
            message = "this encoder sees pictures and reads no texts; ask it for pictures, or another encoder"
            raise UserError(message, code="no_text_encoder", field="input")
        with panics_as_errors():
            return self.tower.text_encoder.features(texts)

    def encode_document(self, parts: Sequence[str | Image.Image | PreparedImage]) -> DocumentPrompt:
        raise _unsupported_captions()

    def write_captions(
        self, pixels: Tensor, options: GenerationConfig, seeds: Sequence[int], readers: Sequence[StreamListener]
    ) -> Iterator[FinishedTexts]:
        raise _unsupported_captions()

    def crop_box(self, image: Image.Image) -> tuple[float, float, float, float]:
        raise _unsupported_attention()

    def attention_maps(self, pixels: Tensor) -> np.ndarray:
        raise _unsupported_attention()


def _unsupported_attention() -> UserError:
    message = "this encoder pools patches in its own way; an encoder that lcl pre-trained shows its attention"
    return UserError(message, code="no_attention", field="model")


def _unsupported_captions() -> UserError:
    message = "this encoder writes no text; an encoder that lcl pre-trained does"
    return UserError(message, code="no_captions", field="model")


def open_engine(
    directory: str | Path, device: str = "auto", precision: Precision = "fp32", registered: Hashes | None = None
) -> EncoderEngine:
    """Load an encoder, ours or another library's; ``precision`` as EncoderSession's.

    Args:
        registered: what is known of its files, sha256 by name; another content is refused. None: nothing is.

    Raises:
        UserError: as EncoderSession; ``encoder_changed``.
    """
    hashes = hash_encoder_files(Path(directory))
    if registered:
        check_unchanged(registered, hashes)
    try:
        kind = detect_encoder(Path(directory)).kind
    except UserError:
        kind = "lcl"  # its own loader says best what is missing
    if kind == "lcl":
        return EncoderEngine(directory, device, precision=precision, file_hashes=hashes)

    return ExternalEngine(directory, device, precision=precision, file_hashes=hashes)


def hash_encoder_files(directory: Path) -> dict[str, str]:
    """``hashes_of``. Raises: UserError ``encoder_unreadable``."""
    try:
        return hash_files(directory)
    except OSError as error:
        message = f"a file cannot be read ({error.strerror}); give the directory of a saved encoder"
        raise UserError(message, code="encoder_unreadable", file=error.filename or directory) from error


FP32, BF16 = 4, 2  # bytes a number: every encoder is kept in fp32, whatever its file is in; its copy in bf16


def estimate_memory(directory: Path, device: str = "auto", precision: Precision = "fp32") -> int:
    """Bytes of the weights as ``open_session`` keeps them; what a batch takes comes on top.

    0 for what cannot be loaded: its loader says best why.

    Raises:
        UserError: ``bad_device``.
    """
    try:
        origin = detect_encoder(directory)
        names, ours = origin.weights, origin.kind == "lcl"
    except UserError:
        names, ours = tuple(sorted(path.name for path in directory.glob("*.safetensors"))), True
    halves = ours and _keeps_bf16_copy(device, precision)
    try:
        return sum(_weight_bytes(tensor_sizes(directory / name), halves) for name in names)
    except UserError:
        return 0


def _keeps_bf16_copy(device: str, precision: Precision) -> bool:
    import torch

    return compute_dtype(pick_device(device), precision) == torch.bfloat16


def _weight_bytes(numbers: dict[str, int], halves: bool) -> int:
    return sum(count * (FP32 + BF16 if halves and is_precast(name) else FP32) for name, count in numbers.items())
