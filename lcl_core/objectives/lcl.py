"""Latent Compression Learning (arXiv 2406.07543, Method).

L = lambda * L_con + L_gen. L_con is a symmetric InfoNCE between an image's pooled latent and the text tower's output
at that image's ``<soi>``, which has read only what precedes it. L_gen is next-token cross-entropy on the text, read
with the image tokens in place. Together they maximise the mutual information between the latents that go into the
causal model and what comes out of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from lcl_core.model.output import LCLOutput
from lcl_core.objectives.losses import contrastive_loss, linear_cross_entropy

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.modeling import LCLModel


def lcl(model: LCLModel, batch: PackedBatch) -> LCLOutput:
    """Both losses of a packed batch; each already carries its weight."""
    latents, tokens = model.encode_images(batch.pixel_values)
    hidden = model.read_documents(batch, tokens)
    image_features = F.normalize(latents.index_select(0, batch.pair_images).float(), dim=-1)
    context = model.text.contrastive_features(hidden.index_select(0, batch.pair_positions))
    text_features = F.normalize(context.float(), dim=-1)
    contrastive = _contrastive(model, image_features, text_features)
    generation = _generation(model, hidden, batch)
    return LCLOutput(
        loss=contrastive + generation,
        contrastive_loss=contrastive,
        generation_loss=generation,
        image_features=image_features,
        text_features=text_features,
        image_latents=latents,
        patch_tokens=tokens,
        hidden=hidden,
        batch=batch,
    )


def _contrastive(model: LCLModel, image_features: Tensor, text_features: Tensor) -> Tensor:
    if len(image_features) == 0 and model.config.numerics == "fixed":
        # No pair in the batch: the authors' mean over nothing is NaN and poisons the step.
        return 0.0 * (image_features.sum() + text_features.sum() + model.logit_scale)
    loss = contrastive_loss(image_features, text_features, model.logit_scale)
    return model.config.contrastive_weight * loss


def _generation(model: LCLModel, hidden: Tensor, batch: PackedBatch) -> Tensor:
    inputs = model.lm_head[0](hidden.index_select(0, batch.label_positions))
    total = linear_cross_entropy(inputs, model.lm_head[1].weight, batch.labels)
    return model.config.generation_weight * total / max(len(batch.labels), 1)
