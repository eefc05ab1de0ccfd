"""Encoders of this product: LCLModel with its processor, as image encoder, text encoder and captioner."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from lcl_core import __version__
from lcl_core.common.errors import UserError
from lcl_core.encoders.base import (
    RANDOM_INIT_SEED,
    ImageEncoder,
    TextEncoder,
    freeze,
    hash_state_dict,
    parameter_groups,
    wrap_load_errors,
)
from lcl_core.encoders.captioning import (
    DocumentPrompt,
    FinishedTexts,
    GenerationConfig,
    PreparedImage,
    StreamListener,
)
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.files import hash_weights, unreadable
from lcl_core.encoders.registry import TOKENIZER, WEIGHTS
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.model.generation import (
    IncrementalDetokenizer,
    beam_search,
    caption_prefix,
    caption_prompt_ids,
    check_context_length,
    document_prefix,
    document_prompt_ids,
    generate_captions,
    generate_tokens,
    generation_bytes,
)
from lcl_core.specs.data import Fit
from lcl_core.specs.evaluate import DecodingSpec

DOCUMENT_FIELD = "document"  # of requests
PROCESSOR = "processor_config.json"
_PRECAST = re.compile(
    r"(visual|text)\.transformer\.resblocks\.\d+\.(attn\.(in_proj_|out_proj\.)|mlp\.(c_fc|c_proj)\.)(weight|bias)"
)
_UNHASHED_CONFIG = ("_name_or_path", "architectures", "dtype", "transformers_version")
_QUERY_TOKENS = 77  # context length of a query, as the paper's encode_text


def precast_bf16(model: LCLModel) -> LCLModel:
    """A second model that computes under bf16 autocast what ``model`` does, to the bit.

    Autocast rounds the weights of each product each time; for a few short texts that is more work than the product.
    What is not rounded (embeddings, norms, head) is the same memory in both.
    """
    shared = {id(weight): weight for name, weight in model.named_parameters() if not is_precast(name)}
    precast = copy.deepcopy(model, shared)
    for name, weight in precast.named_parameters():
        if is_precast(name):
            weight.data = weight.data.to(torch.bfloat16)
    return precast


def is_precast(name: str) -> bool:
    """Whether a parameter, or tensor of a saved encoder, is a weight or bias of a block's four products."""
    return _PRECAST.fullmatch(name) is not None


class LCLTextEncoder(TextEncoder):
    """The pre-trained text tower: texts as contexts of an image to come, ``sot text soi``."""

    def __init__(self, model: LCLModel, processor: LCLProcessor, identity: dict[str, str]) -> None:
        self._model, self._processor = model, processor
        self.module, self.width, self.identity = model.text, model.config.embed_dim, identity
        self.max_tokens = min(_QUERY_TOKENS, model.config.context_length)

    def features(self, texts: Sequence[str]) -> Tensor:
        ids = self._processor.encode_texts(list(texts)).to(self._model.device)
        return self._model.get_text_features(input_ids=ids, context_length=self.max_tokens, normalize=False)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [min(len(self._processor.tokenizer.encode(text)) + 2, self.max_tokens) for text in texts]

    def copy(self) -> Self:
        model = copy.copy(self._model)  # the vision tower is shared, since nothing here uses it
        model._modules = {**model._modules, "text": copy.deepcopy(model.text).requires_grad_(True)}
        return type(self)(model, self._processor, self.identity)


class LCLEncoder(ImageEncoder):
    """An LCLModel with its processor; it also generates text.

    Args:
        weights_hash: sha256 of the weights (the file's for a saved encoder).
    """

    def __init__(self, model: LCLModel, processor: LCLProcessor, weights_hash: str) -> None:
        self.model, self.module = model, model.visual
        self.processor = processor
        self.weights_hash = weights_hash
        self.embed_dim, self.image_size, self.fit = model.config.embed_dim, processor.image_size, processor.fit
        self.tokens, self.width = model.config.num_image_tokens, model.config.vision_width

    @classmethod
    def load(cls, directory: Path, file_hashes: Mapping[str, str] | None = None) -> Self:
        model, processor = load_model(directory)
        freeze(model)
        return cls(model, processor, (file_hashes or {}).get(WEIGHTS) or hash_weights(directory, (WEIGHTS,)))

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

    @cached_property
    def text_encoder(self) -> LCLTextEncoder:
        return LCLTextEncoder(self.model, self.processor, self.identity)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def to(self, device: torch.device) -> Self:
        self.model.to(device)  # type: ignore[arg-type]
        return self

    def fold_norms(self) -> Self:
        self.model.visual.fold_norms()
        return self

    def for_dtype(self, dtype: torch.dtype) -> ImageEncoder:
        if dtype != torch.bfloat16:
            return self
        return LCLEncoder(precast_bf16(self.model), self.processor, self.weights_hash)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        return self.processor.preprocess(images)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.model.get_patch_features(pixel_values=pixels)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patches(pixels)
        return F.normalize(self.model.pool_project.pool(patches).float(), dim=-1), patches

    def captions(self, pixels: Tensor, spec: DecodingSpec) -> list[str]:
        return generate_captions(
            self.model, self.processor, pixels.to(self.device), max_new_tokens=spec.max_new_tokens,
            num_beams=spec.beams,
        )  # fmt: skip

    def encode_document(self, parts: Sequence[str | Image.Image | PreparedImage]) -> DocumentPrompt:
        config = self.model.config
        ids = document_prompt_ids(config, self.processor, [part if isinstance(part, str) else None for part in parts])
        check_context_length(config, ids, DOCUMENT_FIELD)  # before images are preprocessed
        images = [self._image_pixels(part, at) for at, part in enumerate(parts) if not isinstance(part, str)]
        return DocumentPrompt(ids, torch.cat([self.processor.preprocess([]), *images]))

    def generation_bytes(self, config: GenerationConfig, prompt: DocumentPrompt | None = None) -> int:
        """Memory that one caption, or the continuation of ``prompt``, takes while it is generated."""
        settings = self.model.config
        ids = (
            caption_prompt_ids(settings, self.processor, config.prompt, config.context)
            if prompt is None
            else prompt.ids
        )
        return generation_bytes(settings, len(ids), config.max_new_tokens, config.num_beams)

    def generate_captions(
        self, pixels: Tensor, config: GenerationConfig, seeds: Sequence[int], listeners: Sequence[StreamListener]
    ) -> Iterator[FinishedTexts]:
        prefix = caption_prefix(self.model, self.processor, pixels.to(self.device), config.prompt, config.context)
        return self._generate(prefix, config, seeds, listeners)

    def continue_document(
        self, prompt: DocumentPrompt, config: GenerationConfig, listener: StreamListener
    ) -> Iterator[FinishedTexts]:
        prefix = document_prefix(self.model, prompt.ids, prompt.pixels.to(self.device))
        return self._generate(prefix, config, [config.seed], [listener])

    def layers(self) -> list[list[nn.Parameter]]:
        return parameter_groups(self.model.visual, self.model.visual.blocks)

    def copy(self) -> Self:
        model = copy.deepcopy(self.model)
        model.visual.requires_grad_(True)
        return type(self)(model, self.processor, self.weights_hash)

    def random_init(self) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_INIT_SEED)
            model = LCLModel(self.model.config)
        digest = hash_state_dict(model)
        freeze(model)
        return type(self)(model, self.processor, digest)

    def _image_pixels(self, image: Image.Image | PreparedImage, part: int) -> Tensor:
        try:
            if isinstance(image, Image.Image):
                return self.processor.preprocess([image])
            if image.pixels is not None:
                return image.pixels.unsqueeze(0)
            raise image.error or ValueError("no pixels")
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises many types for a broken image
            message = f"the image cannot be read ({error}); send another"
            raise UserError(message, code="image_unreadable", field=f"{DOCUMENT_FIELD}.{part}") from error

    @torch.inference_mode()
    def _generate(
        self, prefix: Tensor, config: GenerationConfig, seeds: Sequence[int], listeners: Sequence[StreamListener]
    ) -> Iterator[FinishedTexts]:
        """Texts after embeddings [n, L, D], one step at a time. A cancelled row is complete with what there is."""
        if config.num_beams > 1:
            yield from self._beam_search(prefix, config, listeners)
            return
        open_rows = {row: IncrementalDetokenizer(self.processor) for row in range(len(listeners))}
        steps = generate_tokens(self.model, prefix, config.max_new_tokens, config.top_p, config.temperature, seeds)
        for ids in steps:
            if ids is not None:
                tokens = ids.tolist()
                for row, text in open_rows.items():
                    listeners[row].notify(text.add(tokens[row]))
            ended = [row for row, text in open_rows.items() if text.ended or listeners[row].cancelled]
            yield _finish_rows(open_rows, listeners, ended)
            if not open_rows:
                return
        yield _finish_rows(open_rows, listeners, list(open_rows))

    def _beam_search(
        self, prefix: Tensor, config: GenerationConfig, listeners: Sequence[StreamListener]
    ) -> Iterator[FinishedTexts]:
        """A listener gets the whole text at once: which beam wins is known at the end alone."""
        missing = set(range(len(listeners)))
        for rows in beam_search(self.model, prefix, config.max_new_tokens, config.num_beams):
            texts = {row: self.processor.decode(ids) for row, ids in rows if row in missing}
            for row, text in texts.items():
                listeners[row].notify(text)
            texts |= {row: "" for row in missing - texts.keys() if listeners[row].cancelled}
            missing -= texts.keys()
            yield list(texts.items())
            if not missing:
                return


def load_model(directory: Path, kind: type[LCLModel] = LCLModel) -> tuple[LCLModel, LCLProcessor]:
    """As ``kind``, in fp32, on the CPU. Raises: UserError ``encoder_unreadable``."""
    check_encoder(directory)
    transformers_logging.disable_progress_bar()
    with wrap_load_errors(directory):
        loaded: Any = kind.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        processor = LCLProcessor.from_pretrained(directory)
    model, info = loaded
    names = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if names:  # transformers would fill in random weights
        message = f"the weights do not belong to config.json ({len(names)} names differ, first {names[0]!r})"
        raise UserError(message, code="encoder_unreadable", field="encoder", file=directory / WEIGHTS)
    if processor.image_size != model.config.image_size:
        message = f"image_size {processor.image_size} is not that of config.json, which is {model.config.image_size}"
        raise unreadable(directory / PROCESSOR, message)
    if processor.fit not in get_args(Fit):
        raise unreadable(directory / PROCESSOR, f"fit is not one of {', '.join(get_args(Fit))}")
    words, specials = processor.tokenizer.vocabulary, processor.tokenizer.specials
    if (highest := max(words.values())) >= model.config.vocab_size:
        message = f"it has the id {highest}, which is no row of the {model.config.vocab_size} token embeddings"
        raise unreadable(directory / TOKENIZER, message)
    own = [specials.sot, specials.eot, specials.img, specials.soi, specials.eoi]
    if own != model.config.special_token_ids:
        message = f"the ids of its special tokens are {own}, and {model.config.special_token_ids} in config.json"
        raise unreadable(directory / TOKENIZER, message)
    return model, processor


def _finish_rows(
    open_rows: dict[int, IncrementalDetokenizer], listeners: Sequence[StreamListener], rows: Sequence[int]
) -> FinishedTexts:
    finished = {row: open_rows.pop(row) for row in rows}
    for row, text in finished.items():
        listeners[row].notify(text.flush())
    return [(row, text.text) for row, text in finished.items()]
