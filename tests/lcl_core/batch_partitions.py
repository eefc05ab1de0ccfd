"""The same documents split into batches in several ways."""

from __future__ import annotations

from dataclasses import replace

import torch

from lcl_core.specs.pretrain import METHODS

PAIR_METHODS = tuple(name for name, method in METHODS.items() if "documents" not in method.reads)

# every method, and every option of one that changes its losses: fields of the objective's spec
VARIANTS = {name: {"name": name} for name in METHODS} | {
    "clip, sigmoid": {"name": "clip", "contrastive_loss": "sigmoid"},
    "clip, same context": {"name": "clip", "positives": "same_context"},
    "clip, same concept": {"name": "clip", "positives": "same_concept"},
    "coca, sigmoid, same concept": {"name": "coca", "contrastive_loss": "sigmoid", "positives": "same_concept"},
    "blip2, same concept": {"name": "blip2", "positives": "same_concept"},
    "lcl, same concept": {"name": "lcl", "positives": "same_concept"},
    "clip, shared keywords": {"name": "clip", "positives": "shared_keywords"},
    "lcl, sigmoid, shared keywords": {
        "name": "lcl",
        "contrastive_loss": "sigmoid",
        "positives": "shared_keywords",
    },
    "blip2, sigmoid, same context": {"name": "blip2", "contrastive_loss": "sigmoid", "positives": "same_context"},
    "lcl, sigmoid": {"name": "lcl", "contrastive_loss": "sigmoid"},
    "emu, detached": {"name": "emu", "regression_target": "detached"},
    "emu, ema": {"name": "emu", "regression_target": "ema"},
    "beit3, alternate": {"name": "beit3", "masking": "alternate"},
}


def rows_of_variant(fields, documents, pairs):
    """Four rows that the variant can read. Two of the pairs have one text where that text alone makes both positives.

    With concepts, one of two equal texts may be a positive of an image and the other not; round-off then decides which
    is nearest.
    """
    if fields["name"] not in PAIR_METHODS:
        return documents
    return pairs[:4] if fields.get("positives") == "same_context" else [*pairs[:3], pairs[4]]


def key_of(number):
    """What the random choices about a document come from; too large for a signed number."""
    return 7**20 + 2**63 + number


def partition_batches(objective, rows, pixels, config, hands):
    """A batch for each hand: numbers of rows. ``pixels``: the images of all rows, in order.

    Where concepts are positives, every second image is of one concept and every fifth of none that is known. Where
    keywords are, image i has the terms 1 to i + 1, and every third caption the term 2, which all but one image have.
    """
    counts = [int((row == config.soi_token_id).sum()) for row in rows]
    images = pixels.split(counts)
    batches = [
        objective.collate(
            [rows[number] for number in hand],
            torch.cat([images[number] for number in hand]),
            config,
            keys=[key_of(number) for number in hand],
        )
        for hand in hands
    ]
    if getattr(objective, "positives", "own") not in ("same_concept", "shared_keywords"):
        return batches
    numbers = torch.arange(sum(counts))
    known = torch.where(numbers % 2 == 0, 7, 100 + numbers).masked_fill(numbers % 5 == 4, 0).split(counts)
    terms = (torch.arange(1, 9) * (torch.arange(8) <= numbers[:, None])).split(counts)
    captions = torch.where(numbers % 3 == 0, 2, 0)[:, None].split(counts)
    found = []
    for batch, hand in zip(batches, hands, strict=True):
        fields = {"concepts": torch.cat([known[number] for number in hand])}
        if objective.reads_terms:
            fields["image_terms"] = torch.cat([terms[number] for number in hand])
            fields["caption_terms"] = torch.cat([captions[number] for number in hand])
        found.append(replace(batch, **fields))
    return found
