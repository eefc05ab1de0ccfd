"""Latent Compression Learning (arXiv 2406.07543, Method).

L = lambda * L_con + L_gen. L_con is a symmetric InfoNCE between an image's pooled latent and the text tower's output
at that image's ``<soi>``, which has read only what precedes it. L_gen is next-token cross-entropy on the text, read
with the image tokens in place. Together they maximise the mutual information between the latents that go into the
causal model and what comes out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from lcl_core.model.output import Reading
from lcl_core.objectives.head import linear_cross_entropy
from lcl_core.objectives.terms import Objective, Pairs, Sum, Terms

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.modeling import LCLModel


def _terms(model: LCLModel, batch: PackedBatch) -> Terms:
    latents, tokens = model.encode_images(batch.pixel_values, batch.patches)
    hidden = model.read_documents(batch, tokens)
    return Terms(
        sums={"generation": Sum(_generation(model, hidden, batch), model.config.generation_weight)},
        pairs=_pairs(model, latents, hidden, batch),
        reading=Reading(latents, tokens, hidden),
    )


def _counts(batch: PackedBatch) -> Mapping[str, int]:
    return {"generation": len(batch.labels), "contrastive": len(batch.pair_images)}


def _pairs(model: LCLModel, latents: Tensor, hidden: Tensor, batch: PackedBatch) -> Pairs:
    context = model.text.contrastive_features(hidden.index_select(0, batch.pair_positions))
    return Pairs(
        image_features=F.normalize(latents.index_select(0, batch.pair_images).float(), dim=-1),
        text_features=F.normalize(context.float(), dim=-1),
        weight=model.config.contrastive_weight,
    )


def _generation(model: LCLModel, hidden: Tensor, batch: PackedBatch) -> Tensor:
    inputs = model.lm_head[0](hidden.index_select(0, batch.label_positions))
    return linear_cross_entropy(inputs, model.lm_head[1].weight, batch.labels)


LCL = Objective(_terms, _counts)
