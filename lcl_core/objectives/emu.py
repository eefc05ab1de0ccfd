"""Generation and regression of image latents: Emu (arXiv 2307.05222, section 2.2), with metrics of latent collapse.

L = L_gen + w * L_reg. L_gen is next-token cross-entropy on the text. L_reg predicts every image token of the document
from the text tower's output one position earlier, by a linear head g: L_reg = 1 / D * |g(LN(h_{p-1})) - t_p|^2, a mean
over image tokens.

The targets t are the encoder's own outputs and carry gradients, as in one model trained from scratch on the sum of both
losses. Nothing keeps latents different, so the encoder may lower the loss by making all of them alike: the collapse
that the paper reports (Table 1). The metrics ``latent_log_variance`` and ``latent_effective_rank`` are computed from
the pooled latents of each batch, which evaluations use.

``regression_target`` chooses other targets: ``detached`` stops their gradient; ``ema`` computes them with a moving
average of the encoder, which starts as a copy of it. Both remove the direct way to lower the loss by collapse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from lcl_core.common.device import local_part
from lcl_core.estimate.flops import target_flops
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import AttentivePoolingProjection, LCLModel
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.model.vision_towers import build_vision_tower
from lcl_core.objectives.base import BatchLosses, EncodedBatch, GlobalBatch, MeanMetric, SummedLoss
from lcl_core.objectives.flamingo import Flamingo
from lcl_core.specs.pretrain import MethodName, ObjectiveSpec

_TINY = 1e-30
TARGET_DECAY = 0.996  # of the moving average, BYOL's


def log_variance(latents: Tensor) -> Tensor:
    """Natural logarithm of the mean, over dimensions, of the variance over images; of [n, D] with n > 1."""
    return latents.float().var(dim=0).mean().clamp_min(_TINY).log()


def effective_rank(latents: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares (Roy & Vetterli, EUSIPCO 2007; RankMe, arXiv 2210.02885).

    Of [n, D]: from 1, where all latents are parallel, to min(n, D), where they fill their space evenly. The mean is not
    subtracted: latents that differ little from one common vector have collapsed.
    """
    values = torch.linalg.svdvals(latents.float())
    shares = values / values.sum().clamp_min(_TINY)
    return torch.special.entr(shares).sum().exp()


@torch.no_grad()
def collapse_metrics(latents: Tensor) -> dict[str, MeanMetric]:
    """Both metrics of a batch's pooled latents [n, D] before normalisation; fewer than two images are not counted."""
    measures = {"latent_log_variance": log_variance, "latent_effective_rank": effective_rank}
    if len(latents) < 2:
        zero = torch.zeros((), device=latents.device)
        return {name: MeanMetric(zero, zero) for name in measures}
    one = torch.ones((), device=latents.device)
    return {name: MeanMetric(measure(latents), one) for name, measure in measures.items()}


class TargetEncoder(nn.Module):
    """Moving average of vision tower and pooler, for image tokens without gradient (BYOL, arXiv 2006.07733)."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        self.visual = build_vision_tower(config)
        self.pool_project = AttentivePoolingProjection(config.vision_width, config.text_width, config.pool_heads)
        self.requires_grad_(False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def forward(self, batch: PackedBatch) -> Tensor:
        """Tokens [n, N, D] of the batch's images."""
        tokens: Tensor = self.pool_project(self.visual(batch.pixel_values))[1]
        return tokens

    @torch.no_grad()
    def update(self, model: LCLModel, decay: float) -> None:
        """Move the weights towards the model's."""
        for own, trained in ((self.visual, model.visual), (self.pool_project, model.pool_project)):
            averages = [local_part(parameter) for parameter in own.parameters()]
            torch._foreach_lerp_(averages, [local_part(parameter) for parameter in trained.parameters()], 1 - decay)


class Emu(Flamingo):
    name: ClassVar[MethodName] = "emu"
    reads_image_outputs = True

    def __init__(self, spec: ObjectiveSpec, config: LCLConfig) -> None:
        super().__init__(spec.weights)
        width = config.text_width
        self.target = spec.regression_target
        self.regressor = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.target_encoder = TargetEncoder(config) if spec.averages_encoder else None

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        return cls(spec, config)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {**super().counts(batch), "regression": len(batch.image_slots)}

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        generation = super().losses(model, batch, encoded, global_batch)
        targets = encoded.activations.patch_tokens if self.target_encoder is None else self.target_encoder(batch)
        assert targets is not None
        targets = targets if self.target == "live" else targets.detach()
        predicted = self.regressor(encoded.activations.hidden.index_select(0, batch.image_slots - 1))
        errors = (predicted.float() - targets.flatten(0, 1).float()).square().mean(dim=1)
        regression = SummedLoss(errors.sum(), self.weights["regression"])
        metrics = collapse_metrics(encoded.activations.image_latents) if global_batch.compute_metrics else {}
        return BatchLosses({**generation.sums, "regression": regression}, metrics)

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        targets = 0.0 if self.target_encoder is None else target_flops(config, self.workload(config, batch))
        return super().flops(config, batch) + targets

    def before_training(self, model: LCLModel) -> None:
        if self.target_encoder is not None:
            self.target_encoder.update(model, decay=0.0)

    def after_step(self, model: LCLModel) -> None:
        if self.target_encoder is not None:
            self.target_encoder.update(model, TARGET_DECAY)
