"""Hugging Face: a directory that ``AutoModel`` reads, safetensors alone and never code that lies beside them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Regex, normalizers
from tokenizers.normalizers import BertNormalizer
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from lcl_core.encoders.base import (
    ExternalImageEncoder,
    ExternalTextEncoder,
    check_all_loaded,
    check_token_ids,
    feature_map_to_tokens,
    freeze,
    settings_identity,
    square_side,
    tensor_names,
    unreadable,
    wrap_load_errors,
)
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.files import hash_weights, read_json_object
from lcl_core.encoders.pooling import PoolingMode, SentencePooling, read_pooling
from lcl_core.encoders.registry import TEXTS, TOKENIZER, EncoderFormat

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_LIBRARY = f"transformers {transformers.__version__}"
_MAX_TEXT_TOKENS = 512  # tokens of a text, where neither tokenizer nor model knows a limit
_SIGLIP_CLASSES = ("SiglipTokenizer", "SiglipTokenizerFast")
_PROJECTION = "visual_projection.weight"
_PROBE_IMAGE = Image.new("RGB", (61, 97))


class HuggingFaceImageEncoder(ExternalImageEncoder):
    """A vision transformer or CNN, or the vision side of CLIP, SigLIP and their like, with the text side."""

    kind = "huggingface"
    library = _LIBRARY

    def build(self, trained: bool) -> None:
        model = _model(self.directory, self.origin, trained)
        self.module = _VisionModule(model) if hasattr(model, "vision_model") else model
        processor = transformers.AutoImageProcessor.from_pretrained(self.directory, backend="pil", **_LOCAL)
        neutral = not getattr(processor, "do_normalize", True)
        self.mean = (0.0,) * 3 if neutral else processor.image_mean
        self.deviation = (1.0,) * 3 if neutral else processor.image_std
        self.transform_image = lambda image: processor(images=[image], return_tensors="pt")["pixel_values"][0]
        self.image_size = square_side(self.directory, self.transform_image(_PROBE_IMAGE).shape[1:])
        self._text_encoder = _paired_texts(self.directory, model) if TEXTS in self.origin.reads else None

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.module(pixel_values=pixels)
        states, pooled = found.last_hidden_state, getattr(found, "pooler_output", None)
        if states.ndim == 4:
            return states.mean((2, 3)) if pooled is None else pooled.flatten(1), feature_map_to_tokens(states)
        before = 0  # class and register tokens before the patches; none where patches were merged
        if isinstance(patch := getattr(self.module.config, "patch_size", None), int):
            before = max(0, states.shape[1] - (self.image_size // patch) ** 2)
        if pooled is None:
            pooled = states[:, 0] if before else states.mean(1)
        return pooled, states[:, before:]


class _VisionModule(nn.Module):
    """The vision side of a two-sided model, up to the space that it shares with texts."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = getattr(model, "visual_projection", nn.Identity())
        self.config = getattr(model.config, "vision_config", model.config)

    def forward(self, pixel_values: Tensor) -> Any:
        found = self.vision_model(pixel_values=pixel_values)
        found.pooler_output = self.visual_projection(found.pooler_output)
        return found


class _TextModule(nn.Module):
    """The text side of a two-sided model, up to the space that it shares with images."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text_model = model.text_model
        self.text_projection = getattr(model, "text_projection", nn.Identity())

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.text_projection(self.text_model(**inputs).pooler_output)


class _PooledTexts(nn.Module):
    """A text encoder alone: its last states over the text, pooled as sentence encoders are."""

    def __init__(self, model: Any, modes: Sequence[PoolingMode]) -> None:
        super().__init__()
        self.model = model
        self.modes = tuple(modes)

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        states = self.model(attention_mask=attention_mask, **inputs).last_hidden_state
        return torch.cat([_POOLINGS[mode](states, attention_mask) for mode in self.modes], dim=1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    """The first token that is no padding, on whichever side that stands."""
    return states[torch.arange(len(states), device=states.device), mask.argmax(1)]


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _largest(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask[:, :, None] == 0, float("-inf")).amax(1)


_POOLINGS: dict[PoolingMode, Callable[[Tensor, Tensor], Tensor]] = {"cls": _first, "max": _largest, "mean": _mean}


class HuggingFaceTextEncoder(ExternalTextEncoder):
    """A text encoder with its tokenizer.

    Args:
        limit: tokens that are read of a text.
        reads_padding: each text is padded to ``limit`` tokens, and the network attends to the padding too.
        lower_case: texts are read in lower case.
    """

    def __init__(
        self, network: nn.Module, tokenizer: Any, limit: int, reads_padding: bool = False, lower_case: bool = False
    ) -> None:
        super().__init__(network, tokenizer)
        self._limit, self._reads_padding, self._lower_case = limit, reads_padding, lower_case

    @classmethod
    def load(cls, directory: Path) -> HuggingFaceTextEncoder:
        """A model that reads texts alone, frozen. Raises: UserError ``encoder_unreadable``."""
        with wrap_load_errors(directory):
            origin = check_encoder(directory)
            model = _model(directory, origin, trained=True)
            said = read_pooling(directory)
            pooling, limit = said or SentencePooling(), _limit(directory, model.config)
            limit = min(limit, pooling.max_tokens or limit)
            network, tokenizer = _PooledTexts(model, pooling.modes), _tokenizer(directory, model)
            side = cls(network, tokenizer, limit, lower_case=pooling.lower_case)
            freeze(side.module)
            digest = hash_weights(directory, origin.weights)
            side.identity = {"weights": digest, **settings_identity(directory, _LIBRARY)}
            if said is not None:  # its file may lie in a folder
                side.identity["pooling"] = repr(said)
            return side

    def features(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokens(texts)
        if self._reads_padding:
            del tokens["attention_mask"]
        return self.module(**tokens.to(self.device))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._tokens(texts)["attention_mask"].sum(1).tolist()

    def _tokens(self, texts: Sequence[str]) -> Any:
        read = [text.lower() for text in texts] if self._lower_case else list(texts)
        return self.tokenizer(
            read, padding="max_length" if self._reads_padding else True, truncation=True,
            max_length=self._limit, return_tensors="pt", return_attention_mask=True,
        )  # fmt: skip


def _model(directory: Path, origin: EncoderFormat, trained: bool) -> Any:
    """The network; a pooler that the weights do not hold is taken away, or noise would be pooled."""
    transformers_logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(directory, **_LOCAL)
    config.dtype = torch.float32
    listed = transformers.MODEL_MAPPING.get(type(config), None)
    # said, so that nothing beside the weights names another
    attention = "sdpa" if getattr(listed, "_supports_sdpa", False) else "eager"
    names = tensor_names(directory, origin)
    kind: Any = transformers.AutoModel
    make = partial(kind.from_config, config, trust_remote_code=False, attn_implementation=attention)
    if origin.model == "clip_vision_model" and _PROJECTION in names:
        # AutoModel would leave out the projection, and make vectors of another space
        kind = transformers.CLIPVisionModelWithProjection  # type: ignore[attr-defined]
        make = partial(kind._from_config, config, attn_implementation=attention)
    if trained:
        model, info = kind.from_pretrained(
            directory,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            attn_implementation=attention,
            **_LOCAL,
        )
        check_all_loaded(directory, [name for name in info["missing_keys"] if not name.startswith("pooler.")])
    else:
        model = make()
    pooled = any("pooler." in name for name in names)
    if not pooled and getattr(model, "pooler", None) is not None and list(model.pooler.parameters()):
        model.pooler = None
    return model


def _paired_texts(directory: Path, model: Any) -> HuggingFaceTextEncoder:
    if not hasattr(model, "text_model"):
        raise unreadable(directory, f"a text side like that of {type(model).__name__} is not known")
    tokenizer, limit = _tokenizer(directory, model.text_model), _limit(directory, model.config.text_config)
    # SigLIP learnt on texts padded to its full length, without a mask, and pools at the last position
    reads_padding = "siglip" in model.config.model_type
    return HuggingFaceTextEncoder(_TextModule(model), tokenizer, limit, reads_padding)


def _tokenizer(directory: Path, reader: Any) -> Any:
    # SigLIP's first tokenizer, which transformers reads of SentencePiece's own file alone, or another
    path = directory / "tokenizer_config.json"
    kind = read_json_object(path).get("tokenizer_class") if path.is_file() else None
    if kind in _SIGLIP_CLASSES or (kind is None and reader.config.model_type.startswith("siglip")):
        tokenizer = _siglip_tokenizer(directory)
    else:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **_LOCAL)
        except (OSError, ValueError, ImportError) as error:
            raise unreadable(directory, f"its tokenizer cannot be loaded: {error}") from error
        if (directory / TOKENIZER).is_file():
            tokenizer = _saved_tokenizer(directory, tokenizer)
    check_token_ids(directory, tokenizer, reader.get_input_embeddings().num_embeddings)
    return tokenizer


def _saved_tokenizer(directory: Path, known: Any) -> Any:
    """``tokenizer.json`` as it is, with the special tokens and the padding of the class that transformers chose.

    Classes of transformers take the vocabulary from the file and build other steps around it: Gemma's drops the
    normaliser, XLM-RoBERTa's cuts at spaces. Of BERT's normaliser the settings of ``tokenizer_config.json`` count.
    """
    saved = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / TOKENIZER),
        padding_side=known.padding_side,
        truncation_side=known.truncation_side,
        model_input_names=known.model_input_names,
        **{name: token for name, token in known.special_tokens_map.items() if isinstance(token, str)},
    )
    theirs = known.backend_tokenizer.normalizer
    if isinstance(theirs, BertNormalizer) and isinstance(saved.backend_tokenizer.normalizer, BertNormalizer):
        saved.backend_tokenizer.normalizer = theirs
    return saved


def _siglip_tokenizer(directory: Path) -> Any:
    """``tokenizer.json`` behind what SigLIP's class does to a text: small letters, no punctuation, single spaces.

    Ids are those of that class but for a Greek sigma at the end of a word, and for texts that contain a special token.
    """
    if not (directory / TOKENIZER).is_file():
        raise unreadable(directory, "SigLIP's tokenizer is not read from spiece.model: add tokenizer.json")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(directory, **_LOCAL)
    tokenizer.pad_token = tokenizer.pad_token or "</s>"
    steps = tokenizer.backend_tokenizer
    own = [] if steps.normalizer is None else [steps.normalizer]
    lower = [] if tokenizer.init_kwargs.get("do_lower_case") is False else [normalizers.Lowercase()]
    marks, spaces = Regex(f"[{re.escape(string.punctuation)}]"), Regex(r"\s+")
    # SentencePiece writes a space as the first of these
    replaced: list[tuple[Any, str]] = [("▁", " "), (marks, ""), (spaces, " ")]
    clean = [*lower, *(normalizers.Replace(found, put) for found, put in replaced), normalizers.Strip()]
    steps.normalizer = normalizers.Sequence([*clean, *own])
    return tokenizer


def _limit(directory: Path, config: Any) -> int:
    return min(_MAX_TEXT_TOKENS, getattr(config, "max_position_embeddings", _MAX_TEXT_TOKENS))
