"""From the terms of one batch to its loss: the plain case of one process and no accumulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcl_core.model.output import LCLOutput
from lcl_core.objectives.contrast import contrast
from lcl_core.objectives.terms import Objective, Terms

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.modeling import LCLModel


def compute_loss(objective: Objective, model: LCLModel, batch: PackedBatch) -> LCLOutput:
    """Every loss of ``batch`` as the mean over its items, each already x its weight."""
    terms = objective.terms(model, batch)
    counts = objective.counts(batch)
    losses = {name: mean(term.total, counts[name], model) * term.weight for name, term in terms.sums.items()}
    losses |= _contrastive(terms, model)
    pairs, reading = terms.pairs, terms.reading
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


def _contrastive(terms: Terms, model: LCLModel) -> dict[str, Tensor]:
    if terms.pairs is None:
        return {}
    pairs = terms.pairs
    total = contrast(pairs.image_features, pairs.text_features, model.logit_scale).loss
    return {"contrastive": mean(total, len(pairs.image_features), model) * pairs.weight}
