"""Decoding in padded batches against full passes of one prompt."""

import pytest
import torch

from lcl_core.evaluation.vlm.model import generate_answers
from lcl_core.specs.evaluate import DecodingSpec

LENGTH = 6


def prompts(language, lengths):
    """Random prompts, padded on the left with noise that must not matter."""
    generator = torch.Generator().manual_seed(3)
    embedded = torch.randn(len(lengths), max(lengths), language.embeddings.shape[1], generator=generator)
    places = torch.arange(max(lengths))
    return embedded, torch.stack([places >= max(lengths) - length for length in lengths])


def next_logits(language, prompt, ids):
    """[V] after ``prompt`` [L, D] and ``ids``: one full pass, no cache, no padding."""
    table = language.model.get_input_embeddings()
    embedded = torch.cat([prompt, table(torch.tensor(ids, dtype=torch.long))])
    with torch.no_grad():
        return language.model(inputs_embeds=embedded[None], use_cache=False).logits[0, -1]


def greedy(language, prompt):
    ids: list[int] = []
    while len(ids) < LENGTH and not (ids and ids[-1] in language.ends):
        ids.append(int(next_logits(language, prompt, ids).argmax()))
    return ids


@pytest.mark.parametrize("lengths", [(5, 5, 5), (9, 2, 5)])
def test_a_cache_and_a_batch_change_nothing(language, lengths):
    embedded, present = prompts(language, lengths)
    spec = DecodingSpec(max_new_tokens=LENGTH)
    expected = [language.decode(greedy(language, row[mask])) for row, mask in zip(embedded, present, strict=True)]
    assert len(set(expected)) > 1
    assert generate_answers(language, embedded, present, spec) == expected


def test_an_answer_stops_at_its_end(language):
    end = language.ends[0]
    word = language.encode("blue")
    assert language.decode([*word, end, *word]) == "blue"
    assert language.decode([end, *word]) == ""
