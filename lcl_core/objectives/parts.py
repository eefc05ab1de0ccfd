"""Parts that several objectives share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from lcl_core.costs.methods import Load
from lcl_core.objectives.head import linear_cross_entropy
from lcl_core.objectives.terms import Pairs

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.configuration import LCLConfig
    from lcl_core.model.modeling import LCLModel

# beginnings of parameter names
POOLING = tuple(
    f"pool_project.{name}"
    for name in ("query_token", "pooler.norm1_q", "pooler.norm1_k", "pooler.cross_attn.q", "pooler.cross_attn.k")
)
CONTRASTING = ("text.ln_final", "text.text_projection", "logit_scale")
PREDICTING = ("lm_head",)


def context_pairs(model: LCLModel, latents: Tensor, hidden: Tensor, batch: PackedBatch, weight: float) -> Pairs:
    """Each image's latent and the text tower's output at the ``<soi>`` of its context."""
    context = model.text.contrastive_features(hidden.index_select(0, batch.pair_positions))
    return Pairs(
        image_features=F.normalize(latents.index_select(0, batch.pair_images).float(), dim=-1),
        text_features=F.normalize(context.float(), dim=-1),
        weight=weight,
    )


def token_cross_entropy(model: LCLModel, hidden: Tensor, batch: PackedBatch) -> Tensor:
    """Cross-entropy of the batch's labels from the outputs at their positions, summed."""
    return linear_cross_entropy(head_inputs(model, hidden, batch), model.lm_head[1].weight, batch.labels)


def head_inputs(model: LCLModel, hidden: Tensor, batch: PackedBatch) -> Tensor:
    """[K, D] outputs at label positions, normalised for the vocabulary's projection."""
    return model.lm_head[0](hidden.index_select(0, batch.label_positions))


def load_of(config: LCLConfig, batch: PackedBatch, restored: int = 0) -> Load:
    """What a batch that lies on the host makes a forward pass compute. ``restored``: hidden patches to predict."""
    patches = config.num_image_tokens if batch.patches is None else batch.patches.shape[1]
    return Load(len(batch.pixel_values), patches, batch.lengths, len(batch.labels), restored)
