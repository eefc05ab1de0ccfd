"""The beam search that stops at every token finds what transformers' own finds."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from lcl_core.model import generation
from lcl_core.model.generation import PreallocatedCache, TextDecoder, beam_search
from tests.lcl_core.model.transformers_decoder import TransformersDecoder


def theirs(model, prefix, length, beams):
    ends = [model.config.eot_token_id, model.config.soi_token_id]
    config = GenerationConfig(
        max_new_tokens=length,
        num_beams=beams,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
        bos_token_id=model.config.sot_token_id,
    )
    everything = prefix.new_ones(prefix.shape[:2], dtype=torch.long)
    with torch.inference_mode():
        found = TransformersDecoder(model).generate(
            inputs_embeds=prefix, attention_mask=everything, generation_config=config, cache=PreallocatedCache()
        )
    return [cut(row, ends) for row in found.tolist()]


def cut(ids, ends):
    """Up to the first end; what follows it is padding."""
    first = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: first + 1]


@pytest.mark.parametrize("prompt_tokens", [8192, 12])
def test_the_prompt_is_read_once_a_row(small_model, monkeypatch, prompt_tokens):
    """Also where it is read in several steps, which give the tokens that one gives."""
    read = []
    original = TextDecoder.__call__

    def call(decoder, embeddings, cache):
        read.append(tuple(embeddings.shape[:2]))
        return original(decoder, embeddings, cache)

    prefix = torch.randn(6, 7, small_model.config.text_width, generator=torch.Generator().manual_seed(1))
    expected = theirs(small_model.eval(), prefix, 3, 4)
    monkeypatch.setattr(TextDecoder, "__call__", call)
    monkeypatch.setattr(generation, "PROMPT_TOKENS", prompt_tokens)
    steps = list(beam_search(small_model, prefix, 3, 4))
    assert dict(row for rows in steps for row in rows) == dict(enumerate(expected))
    parts = [(6, 7)] if prompt_tokens > 42 else [(6, 2), (6, 2), (6, 2), (6, 1)]
    assert read == [*parts, (24, 1), (24, 1)]
    assert steps[: len(parts)] == [[]] * len(parts), "a step is over after each part"


@pytest.mark.parametrize("beams", [2, 5, 16])
@pytest.mark.parametrize("likely_ends", [0.0, 3.0, 6.0])
def test_it_finds_what_transformers_finds(small_model, beams, likely_ends):
    config = small_model.eval().config
    lean = torch.nn.Linear(config.text_width, config.vocab_size)
    with torch.no_grad():
        lean.weight.copy_(small_model.lm_head[1].weight * 12)
        lean.bias.zero_()
        lean.bias[[config.eot_token_id, config.soi_token_id]] = likely_ends
    small_model.lm_head[1] = lean
    prefix = torch.randn(6, 7, config.text_width, generator=torch.Generator().manual_seed(beams)) * 0.1
    steps = list(beam_search(small_model, prefix, 12, beams))
    found = dict(row for rows in steps for row in rows)
    assert [found[row] for row in range(6)] == theirs(small_model, prefix, 12, beams)
    assert len(steps) <= 12
    lengths = {len(ids) for ids in found.values()}
    assert max(lengths) == 12 if likely_ends == 0 else min(lengths) < 12
