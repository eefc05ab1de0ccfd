"""Hard negatives: who may be drawn, how often, and by what it is decided."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from lcl_core.objectives.hard_negatives import (
    NegativeCandidates,
    sample_hard_negatives,
)

LOG_SCALE = torch.tensor(1.2)


def offer(pairs, keys, texts=None):
    """Pairs with random features, the same for the same number."""
    draw = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(pairs, 4, generator=draw), dim=1) for _ in range(2))
    ids = torch.arange(pairs)
    same = ids if texts is None else texts
    return NegativeCandidates(image, text, torch.randn(pairs, 2, 3), ids[:, None], torch.ones(pairs), keys, same)


def rows(whole, numbers):
    return NegativeCandidates(**{name: tensor[numbers] for name, tensor in vars(whole).items()})


def test_likelier_negatives_are_drawn_as_much_more_often():
    pairs, draws = 6, 1500
    found = {"texts": torch.zeros(pairs, pairs), "images": torch.zeros(pairs, pairs)}
    made = offer(pairs, torch.arange(pairs) * 7919)
    for _ in range(draws):
        made = replace(made, keys=made.keys + 104_729)
        negatives = sample_hard_negatives(made, made, LOG_SCALE)
        for kind, counts in found.items():
            counts[torch.arange(pairs), getattr(negatives, kind)] += 1
    scores = LOG_SCALE.exp() * made.image_features @ made.text_features.T
    own = torch.eye(pairs, dtype=torch.bool)
    for kind, logits in (("texts", scores), ("images", scores.T)):
        expected = logits.masked_fill(own, -torch.inf).softmax(1)
        assert torch.equal(found[kind].diagonal(), torch.zeros(pairs))
        error = (found[kind] / draws - expected).abs()
        assert (error <= 5 * (expected * (1 - expected) / draws).sqrt() + 1e-9).all(), kind


def test_draws_do_not_depend_on_how_pairs_are_dealt_out():
    made = offer(9, torch.arange(9) * 7919)
    whole = sample_hard_negatives(made, made, LOG_SCALE)
    order = [8, 3, 5, 0, 1, 7, 2, 6, 4]
    everyone = NegativeCandidates.concatenate([rows(made, order[:4]), rows(made, order[4:])], text_length=1)
    part = sample_hard_negatives(rows(made, order[4:]), everyone, LOG_SCALE)
    for mine, theirs in ((part.texts, whole.texts), (part.images, whole.images)):
        assert [order[number] for number in mine] == theirs[order[4:]].tolist()


def test_a_pair_with_the_same_text_is_no_negative():
    texts = torch.tensor([1, 1, 1, 2])
    for number in range(50):
        made = offer(4, torch.arange(4) * 7919 + number * 104_729, texts)
        negatives = sample_hard_negatives(made, made, LOG_SCALE)
        assert negatives.texts[:3].tolist() == negatives.images[:3].tolist() == [3, 3, 3]
        assert negatives.exists.tolist() == [1, 1, 1, 1]
    same = offer(3, torch.arange(3), torch.zeros(3))
    assert sample_hard_negatives(same, same, LOG_SCALE).exists.tolist() == [0, 0, 0]


def test_a_pair_of_the_same_concept_is_no_negative():
    groups = torch.tensor([[1, 5], [2, 5], [3, 7], [1, 8]])  # text, concept
    allowed = [{2}, {2, 3}, {0, 1, 3}, {1, 2}]
    found = [set() for _ in allowed]
    for number in range(80):
        made = offer(4, torch.arange(4) * 7919 + number * 104_729, groups)
        negatives = sample_hard_negatives(made, made, LOG_SCALE)
        for pair, drawn in enumerate(found):
            drawn |= {int(negatives.texts[pair]), int(negatives.images[pair])}
    assert found == allowed
