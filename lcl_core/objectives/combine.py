"""From a batch to its loss: the plain case of one process and no accumulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcl_core.model.output import LCLOutput
from lcl_core.objectives.contrast import contrast
from lcl_core.objectives.objective import Joint, Objective
from lcl_core.objectives.terms import Pairs

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.modeling import LCLModel


def compute_loss(objective: Objective, model: LCLModel, batch: PackedBatch) -> LCLOutput:
    """Every loss of ``batch`` as the mean over its items, each already x its weight."""
    encoding = objective.encode(model, batch)
    sums = objective.losses(model, batch, encoding, Joint()).sums
    counts = objective.counts(batch)
    losses = {name: mean(term.total, counts[name], model) * term.weight for name, term in sums.items()}
    pairs, reading = encoding.pairs, encoding.reading
    if pairs is not None:
        losses["contrastive"] = _contrastive(pairs, model)
    return LCLOutput(
        loss=torch.stack(list(losses.values())).sum(),
        losses=losses,
        contrastive_loss=losses.get("contrastive"),
        generation_loss=losses.get("generation"),
        image_features=None if pairs is None else pairs.image_features,
        text_features=None if pairs is None else pairs.text_features,
        image_latents=reading.image_latents,
        patch_tokens=reading.patch_tokens,
        hidden=reading.hidden,
        batch=batch,
    )


def mean(total: Tensor, count: int, model: LCLModel) -> Tensor:
    """total / count; over no items it is 0, and NaN in the authors' numerics, as theirs is."""
    return total / (count if model.config.numerics == "official" else max(count, 1))


def _contrastive(pairs: Pairs, model: LCLModel) -> Tensor:
    total = contrast(pairs.image_features, pairs.text_features, model.logit_scale).loss
    return mean(total, len(pairs.image_features), model) * pairs.weight
