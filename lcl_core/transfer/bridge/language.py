"""A causal language model and its tokenizer, as a bridge needs them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lcl_core.errors import UserError


class LanguageModel:
    """B rows of L places, D numbers a place, V tokens.

    Args:
        model: of any architecture that reads embeddings in place of token ids.
        weights_hash: sha256 of its weights.
        field: of the evaluation's spec that names the model, for messages.

    Attributes:
        ends: token ids that end an answer; the first is what answers are taught to end with.

    Raises:
        UserError: ``language_model_unreadable``, if the architecture or the tokenizer cannot serve.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, weights_hash: str, *, field: str
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.weights_hash = weights_hash
        self.ends = _ends(model, tokenizer)
        lacks = _lacks(model, self.ends)
        if lacks:
            raise UserError(f"the language model {lacks}", code="language_model_unreadable", field=field)
        # Whatever else a checkpoint came with must not change an examination.
        model.generation_config = GenerationConfig(eos_token_id=list(self.ends), pad_token_id=self.ends[0])
        # The last place of a prompt is a strided slice, for which a CPU would copy the whole head once a row.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype

    @property
    def embeddings(self) -> Tensor:
        """[V, D]."""
        return cast(nn.Embedding, self.model.get_input_embeddings()).weight

    @property
    def width(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    @property
    def begin(self) -> tuple[int, ...]:
        """The token that texts begin with, where the tokenizer puts one."""
        with_specials = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        first = self.tokenizer.bos_token_id
        return (first,) if first is not None and with_specials[:1] == [first] else ()

    def encode(self, text: str) -> list[int]:
        """Token ids, none added."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def plain(self, text: str) -> str:
        """``text`` without the tokenizer's special tokens: what a text contains must not end an answer."""
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, " ")
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end, special tokens left out, as one line."""
        stop = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=True)
        assert isinstance(text, str)
        return " ".join(text.split())

    def embed(self, ids: Tensor) -> Tensor:
        """[B, L] → [B, L, D]; scaled where the architecture does so."""
        return self.model.get_input_embeddings()(ids)

    def logits(self, embedded: Tensor, kept: Tensor) -> Tensor:
        """Next-token logits [T, V] at the T places that ``kept`` [B, L] names, row by row; others are never made."""
        return self.model(inputs_embeds=embedded, logits_to_keep=kept, use_cache=False).logits


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    given: Any = model.generation_config.eos_token_id if model.generation_config is not None else None
    others = given if isinstance(given, list) else [given]
    return tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *others) if token is not None))


def _lacks(model: PreTrainedModel, ends: tuple[int, ...]) -> str | None:
    """What keeps a model from serving, as the end of a sentence."""
    if not ends:
        return "has no token to end an answer with; its tokenizer needs an eos_token"
    known = inspect.signature(model.forward).parameters
    lacking = next((name for name in ("inputs_embeds", "logits_to_keep") if name not in known), None)
    return f"of type {model.config.model_type!r} does not take {lacking}; choose another" if lacking else None
