"""Loss of one batch in one process, without accumulation: what a training step over any partition must equal."""

from __future__ import annotations

import torch

from lcl_core.model import LCLOutput
from lcl_core.objectives.base import GlobalBatch


def compute_loss(objective, model, batch):
    """Every loss of ``batch`` as the mean over its items, each already x its weight."""
    encoded = objective.encode(model, batch)
    sums = objective.losses(model, batch, encoded, GlobalBatch()).sums
    counts = objective.counts(batch)
    losses = {name: model.mean_loss(term.total, counts[name]) * term.weight for name, term in sums.items()}
    pairs, activations = encoded.pairs, encoded.activations
    if pairs is not None:
        total = pairs.loss(model.logit_scale, [len(pairs.image_features)]).loss
        losses["contrastive"] = model.mean_loss(total, len(pairs.image_features)) * pairs.weight
    return LCLOutput(
        loss=torch.stack(list(losses.values())).sum(),
        losses=losses,
        contrastive_loss=losses.get("contrastive"),
        generation_loss=losses.get("generation"),
        image_features=None if pairs is None else pairs.image_features,
        text_features=None if pairs is None else pairs.text_features,
        image_latents=activations.image_latents,
        patch_tokens=activations.patch_tokens,
        hidden=activations.hidden,
        batch=batch,
    )
