"""Generation and regression of image latents: Emu (arXiv 2307.05222, section 2.2).

L = L_gen + w * L_reg. L_gen is next-token cross-entropy on the text. L_reg regresses every token of an image, as the
document holds it, from the text tower's output one place before: the first from ``<soi>``, each other from the one
that precedes it. A linear head g predicts, and L_reg = 1 / D * |g(LN(h_{p-1})) - t_p|^2, a mean over image tokens.

The targets t are the encoder's own outputs and carry gradients, as in one model that is trained from scratch on the
sum of both losses. Nothing keeps them apart, so the encoder may make the loss small by making all latents alike: the
collapse that the paper reports (Table 1). The metrics ``latent_log_variance`` and ``latent_effective_rank`` are of
the pooled latents of each batch, which are what an evaluation sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from lcl_core.costs import methods
from lcl_core.costs.flops import STEP
from lcl_core.objectives.flamingo import Flamingo
from lcl_core.objectives.objective import Joint
from lcl_core.objectives.parts import load_of
from lcl_core.objectives.spread import spread_metrics
from lcl_core.objectives.terms import Encoding, Losses, Sum

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.configuration import LCLConfig
    from lcl_core.model.modeling import LCLModel
    from lcl_core.specs import ObjectiveSpec


class Emu(Flamingo):
    def __init__(self, weights: Mapping[str, float], width: int) -> None:
        super().__init__(weights)
        self.regressor = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        return cls(spec.weights, config.text_width)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {**super().counts(batch), "regression": len(batch.image_slots)}

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: Encoding, joint: Joint) -> Losses:
        generation = super().losses(model, batch, encoding, joint)
        regression = Sum(self._regression(batch, encoding), self.weights["regression"])
        metrics = spread_metrics(encoding.reading.image_latents) if joint.measured else {}
        return Losses({**generation.sums, "regression": regression}, metrics)

    def _regression(self, batch: PackedBatch, encoding: Encoding) -> Tensor:
        """Squared error over image tokens, a mean over dimensions, summed over tokens."""
        tokens = encoding.reading.patch_tokens
        assert tokens is not None
        predicted = self.regressor(encoding.reading.hidden.index_select(0, batch.image_slots - 1))
        return (predicted.float() - tokens.flatten(0, 1).float()).square().mean(dim=1).sum()

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        return STEP * methods.emu(config, load_of(config, batch))
