"""Answers from embedded prompts: greedy, beams or a nucleus, all rows at once, with a cache of keys and values.

transformers' own decoding does this from embeddings as from ids; tests hold it against full passes without a cache.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from lcl_core.specs import DecodingSpec
from lcl_core.transfer.bridge.language import LanguageModel


@torch.inference_mode()
def generate(language: LanguageModel, prompts: Tensor, present: Tensor, spec: DecodingSpec, seed: int) -> list[str]:
    """One answer a row; the same again for the same rows and ``seed``.

    Args:
        prompts: [B, L, D], padded on the left.
        present: [B, L] false where padding stands.
    """
    nucleus = spec.top_p is not None
    config = GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        num_beams=spec.beams,
        do_sample=nucleus,
        top_p=spec.top_p,
        top_k=0 if nucleus else None,
        temperature=spec.temperature if nucleus else None,
        eos_token_id=list(language.ends),
        pad_token_id=language.ends[0],
    )
    devices = [language.device] if language.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        ids = cast(GenerationMixin, language.model).generate(
            inputs_embeds=prompts, attention_mask=present.long(), generation_config=config
        )
    return [language.decode(row) for row in ids.tolist()]
