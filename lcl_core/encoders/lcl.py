"""Encoders of this product: LCLModel with its processor, as image encoder, text encoder and text generator."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core import __version__
from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.encoders.base import RANDOM_INIT_SEED, ImageEncoder, TextEncoder, freeze
from lcl_core.encoders.captioning import PreparedImage, StreamListener
from lcl_core.encoders.detect import is_kind
from lcl_core.encoders.schemas.validate import check_loadable
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor
from lcl_core.model.generation import (
    IncrementalDetokenizer,
    beam_search,
    check_context_length,
    document_prompt_ids,
    generate_captions,
    generate_tokens,
)
from lcl_core.specs.evaluate import DecodingSpec
from lcl_core.train.factory import build_model

if TYPE_CHECKING:
    from lcl_core.encoders.captioning import GenerationConfig


_PRODUCTS = re.compile(
    r"(visual|text)\.transformer\.resblocks\.\d+\.(attn\.(in_proj_|out_proj\.)|mlp\.(c_fc|c_proj)\.)(weight|bias)"
)


def precast_bf16(model: LCLModel) -> LCLModel:
    """A second model that computes under bf16 autocast what ``model`` does, to the bit.

    Autocast rounds the weights of each product each time; for a few short texts that is more work than the product.
    What is not rounded (embeddings, norms, head) is the same memory in both.
    """
    shared = {id(weight): weight for name, weight in model.named_parameters() if not is_precast(name)}
    twin = copy.deepcopy(model, shared)
    for name, weight in twin.named_parameters():
        if is_precast(name):
            weight.data = weight.data.to(torch.bfloat16)
    return twin


def is_precast(name: str) -> bool:
    """Is the parameter, or tensor of a saved encoder, a weight or bias of a block's four products?"""
    return _PRODUCTS.fullmatch(name) is not None


DOCUMENT_FIELD = "document"  # what requests call it


@dataclass(frozen=True, slots=True)
class DocumentPrompt:
    """A document without its end.

    Attributes:
        ids: its tokens, placeholders of pictures included.
        pixels: f32 [k, 3, S, S], its pictures in order, on the CPU.
    """

    ids: list[int]
    pixels: Tensor


def encode_document(
    config: LCLConfig, processor: LCLProcessor, parts: Sequence[str | Image.Image | PreparedImage]
) -> DocumentPrompt:
    """Lay texts and images out as training does interleaved documents.

    Raises:
        UserError: ``document_too_long``; ``image_unreadable`` naming the part.
    """
    ids = document_prompt_ids(config, processor, [part if isinstance(part, str) else None for part in parts])
    check_context_length(config, ids, DOCUMENT_FIELD)  # before pictures are prepared
    pictures = [_image_pixels(processor, part, place) for place, part in enumerate(parts) if not isinstance(part, str)]
    return DocumentPrompt(ids, torch.cat([processor.preprocess([]), *pictures]))


def _image_pixels(processor: LCLProcessor, image: Image.Image | PreparedImage, place: int) -> Tensor:
    try:
        if isinstance(image, Image.Image):
            return processor.preprocess([image])
        if image.pixels is not None:
            return image.pixels.unsqueeze(0)
        raise image.error or ValueError("no pixels")
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a broken picture makes it
        message = f"the picture cannot be read ({error}); send another"
        raise UserError(message, code="image_unreadable", field=f"{DOCUMENT_FIELD}.{place}") from error


FinishedTexts = list[tuple[int, str]]


@torch.inference_mode()
def generate_texts(
    model: LCLModel,
    processor: LCLProcessor,
    prefix: Tensor,
    options: GenerationConfig,
    seeds: Sequence[int],
    readers: Sequence[StreamListener],
) -> Iterator[FinishedTexts]:
    """After embeddings [n, L, D]: step by step, which texts are complete, as (row, text).

    Readers are told the pieces: of a beam search one, since which beginning wins is known at the end alone. A row whose
    reader has left is complete with what there is.
    """
    if options.num_beams > 1:
        yield from _beam_search(model, processor, prefix, options, readers)
        return
    open_rows = {row: IncrementalDetokenizer(processor) for row in range(len(readers))}
    for ids in generate_tokens(model, prefix, options.max_new_tokens, options.top_p, options.temperature, seeds):
        tokens = ids.tolist()
        for row, spelling in open_rows.items():
            readers[row].notify(spelling.add(tokens[row]))
        over = [row for row, spelling in open_rows.items() if spelling.ended or readers[row].cancelled]
        yield _finish_rows(open_rows, readers, over)
        if not open_rows:
            return
    yield _finish_rows(open_rows, readers, list(open_rows))


def _beam_search(
    model: LCLModel,
    processor: LCLProcessor,
    prefix: Tensor,
    options: GenerationConfig,
    readers: Sequence[StreamListener],
) -> Iterator[FinishedTexts]:
    missing = set(range(len(readers)))
    for found in beam_search(model, prefix, options.max_new_tokens, options.num_beams):
        texts = {row: processor.decode(ids) for row, ids in found if row in missing}
        for row, text in texts.items():
            readers[row].notify(text)
        texts |= {row: "" for row in missing - texts.keys() if readers[row].cancelled}
        missing -= texts.keys()
        yield list(texts.items())
        if not missing:
            return


def _finish_rows(
    open_rows: dict[int, IncrementalDetokenizer], readers: Sequence[StreamListener], rows: Sequence[int]
) -> FinishedTexts:
    """Take rows out; their texts."""
    done = {row: open_rows.pop(row) for row in rows}
    for row, spelling in done.items():
        readers[row].notify(spelling.flush())
    return [(row, spelling.text) for row, spelling in done.items()]


_WEIGHTS = "model.safetensors"
_UNHASHED_CONFIG = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a configuration
_QUERY_TOKENS = 77  # the authors' zero-shot context length


class LCLTextEncoder(TextEncoder):
    """The pre-trained text tower: texts as contexts of an image to come, ``sot text soi``."""

    def __init__(self, model: LCLModel, processor: LCLProcessor, identity: dict[str, str]) -> None:
        self._model = model
        self._processor = processor
        self.identity = identity

    @property
    def module(self) -> nn.Module:
        return self._model.text

    @property
    def width(self) -> int:
        return self._model.config.embed_dim

    def features(self, texts: Sequence[str]) -> Tensor:
        ids = self._processor.encode_texts(texts).to(self._model.device)
        return self._model.get_text_features(input_ids=ids, context_length=self._limit, normalize=False)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [min(len(self._processor.tokenizer.encode(text)) + 2, self._limit) for text in texts]

    @property
    def _limit(self) -> int:
        return min(_QUERY_TOKENS, self._model.config.context_length)

    def copy(self) -> Self:
        model = copy.copy(self._model)  # the image side is shared, since nobody here looks at pictures
        model._modules = {**model._modules, "text": copy.deepcopy(model.text).requires_grad_(True)}
        return type(self)(model, self._processor, self.identity)


class LCLEncoder(ImageEncoder):
    """An LCLModel with its processor.

    Args:
        weights_hash: sha256 of the weights (the file's for a saved encoder).
    """

    def __init__(self, model: LCLModel, processor: LCLProcessor, weights_hash: str) -> None:
        self.model = model
        self.processor = processor
        self.weights_hash = weights_hash

    @classmethod
    def matches(cls, directory: Path) -> bool:
        return is_kind(directory, "lcl")

    @classmethod
    def load(cls, directory: Path) -> Self:
        check_loadable(directory)
        try:
            model = LCLModel.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
            processor = LCLProcessor.from_pretrained(directory)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise UserError(
                f"the encoder cannot be read: {error}; export or train it again",
                code="encoder_unreadable", field="encoder", file=directory,
            ) from error  # fmt: skip
        freeze(model)
        return cls(model, processor, sha256_file(directory / _WEIGHTS))

    @property
    def width(self) -> int:
        return self.model.config.vision_width

    @property
    def tokens(self) -> int:
        return self.model.config.num_image_tokens

    @property
    def image_size(self) -> int:
        return self.processor.image_size

    @property
    def embed_dim(self) -> int:
        return self.model.config.embed_dim

    @property
    def module(self) -> nn.Module:
        return self.model.visual

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def identity(self) -> dict[str, str]:
        """Weights, architecture, vocabulary and the code that runs them."""
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in _UNHASHED_CONFIG}
        words = {"config": json.dumps(config, sort_keys=True), "tokenizer": self.processor.tokenizer.to_json()}
        digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in words.items()}
        return {"weights": self.weights_hash, **digests, "lcl": __version__}

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        return self.processor.preprocess(images)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.model.get_patch_features(pixel_values=pixels)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patches(pixels)
        return F.normalize(self.model.pool_project.pool(patches).float(), dim=-1), patches

    @property
    def text_encoder(self) -> TextEncoder:
        return LCLTextEncoder(self.model, self.processor, self.identity)

    def captions(self, pixels: Tensor, spec: DecodingSpec, seed: int) -> list[str]:
        """The text that follows a picture at the head of a document."""
        return generate_captions(
            self.model, self.processor, pixels.to(self.model.device), max_new_tokens=spec.max_new_tokens,
            num_beams=spec.beams, top_p=spec.top_p, temperature=spec.temperature, seed=seed,
        )  # fmt: skip

    def layers(self) -> list[list[nn.Parameter]]:
        visual = self.model.visual
        first = [visual.class_embedding, visual.positional_embedding]
        first += [*visual.conv1.parameters(), *visual.ln_pre.parameters()]
        blocks = [list(block.parameters()) for block in visual.transformer.blocks]
        return [first, *blocks, list(visual.ln_post.parameters())]

    def copy(self) -> Self:
        model = copy.deepcopy(self.model)
        model.visual.requires_grad_(True)
        return type(self)(model, self.processor, self.weights_hash)

    def random_init(self) -> Self:
        model = build_model(self.model.config, RANDOM_INIT_SEED)
        digest = hashlib.sha256()
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.contiguous().numpy().tobytes())
        freeze(model)
        return type(self)(model, self.processor, digest.hexdigest())
