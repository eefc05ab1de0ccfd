"""Interface of a pre-training objective, what it returns, and the parts that several objectives share.

Losses are sums with counts, so that they add up over micro-batches and ranks. A step calls ``collate`` on the host,
``encode`` for each micro-batch, and ``losses`` once the features of the global batch are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import register_dataclass

from lcl_core.estimate.flops import Workload
from lcl_core.model.modeling_lcl import Activations, LCLOutput
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.hard_negatives import NegativeCandidates
from lcl_core.ops.contrastive_loss import contrastive_loss
from lcl_core.ops.linear_cross_entropy import linear_cross_entropy

if TYPE_CHECKING:
    from lcl_core.model.configuration_lcl import LCLConfig
    from lcl_core.model.modeling_lcl import LCLModel
    from lcl_core.specs.pretrain import ObjectiveSpec


@dataclass(frozen=True)
class SummedLoss:
    """A loss summed over items; the step divides it by the items of the whole effective batch.

    Attributes:
        total: scalar, fp32.
        weight: of the mean in the loss.
    """

    total: Tensor
    weight: float


@dataclass(frozen=True)
class MeanMetric:
    """A number for people, as ``total / count``: both add up. Scalars without gradient."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class ContrastivePairs:
    """Features to be contrasted with those of the whole effective batch.

    Attributes:
        image_features, text_features: [M, E], L2-normalised, row-aligned.
        weight: of the contrastive loss.
    """

    image_features: Tensor
    text_features: Tensor
    weight: float


@dataclass(frozen=True)
class EncodedBatch:
    """The first part of a forward pass, which needs this batch alone.

    Attributes:
        reading: what the towers made of the batch.
        pairs: the contrastive part, if the objective has one.
        offer: what the rest of the effective batch may draw from, if the objective draws.
    """

    reading: Activations
    pairs: ContrastivePairs | None = None
    offer: NegativeCandidates | None = None


@dataclass(frozen=True)
class BatchLosses:
    """The second part.

    Attributes:
        sums: losses by name.
        metrics: other numbers, by name.
    """

    sums: Mapping[str, SummedLoss]
    metrics: Mapping[str, MeanMetric] = field(default_factory=dict)


@dataclass(frozen=True)
class LossTerms:
    """Everything a batch contributes to the loss and to the metric line.

    Attributes:
        idle: 0, with a gradient of 0 for each parameter that the objective has no use for; none where it uses all.
    """

    encoding: EncodedBatch
    losses: BatchLosses
    idle: Tensor | None = None


for _type in (
    SummedLoss,
    MeanMetric,
    ContrastivePairs,
    NegativeCandidates,
    EncodedBatch,
    BatchLosses,
    LossTerms,
):  # FSDP looks for tensors in what a forward returns
    register_dataclass(_type)


def identity_gather(offer: NegativeCandidates) -> NegativeCandidates:
    """The whole effective batch is this one."""
    return offer.detached()


@dataclass(frozen=True)
class GlobalBatch:
    """What a forward pass may know of the effective batch that its batch is a part of.

    Attributes:
        meet: from what this batch offers to what all batches of the step offer, on all ranks.
        measured: whether metrics that cost time are wanted: in steps that will be told.
    """

    meet: Callable[[NegativeCandidates], NegativeCandidates] = identity_gather
    measured: bool = False


class Objective(nn.Module):
    """A pre-training method. Parameters of its own are trained and kept like the model's, but never exported.

    What it needs of a batch is found out on the host, by ``collate``. A step then asks for ``encode``, and for
    ``losses`` once the features of the whole effective batch are known.

    Attributes:
        weights: of its losses by name.
        idle: beginnings of the names of those parameters of the model that it has no use for. Their gradient is zero.
    """

    idle: tuple[str, ...] = ()

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        """The method for a model and its spec; own parameters are drawn from torch's generator."""
        return cls(spec.weights)

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        patches: Tensor | None = None,
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        """Lay documents out as the method reads them.

        Args:
            rows: token ids of each document, long, at its own length.
            pixel_values: [n, 3, S, S], their images in order.
            patches: [n, N] the patches to look at; none: all.
            keys: a 64-bit number for each document, a function of the seed and the document's place in the data:
                where random choices come from. None: the document's place in the batch.
        """
        return PackedBatch.pack(rows, pixel_values, config, patches)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        """Items that each of its sums runs over, by name, and ``contrastive`` pairs; known on the host."""
        raise NotImplementedError

    def widest(self, batch: PackedBatch) -> int:
        """Columns of the longest text that the batch offers; 0 when the method offers none."""
        return 0

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        """What the towers make of the batch, and what the rest of the effective batch has to know of it."""
        raise NotImplementedError

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: EncodedBatch, joint: GlobalBatch) -> BatchLosses:
        """The losses but the contrastive one, which is the step's to compute from ``encoding.pairs``."""
        raise NotImplementedError

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        """Useful floating-point operations of a training step over a batch that lies on the host."""
        raise NotImplementedError


# beginnings of parameter names
POOLER_QUERY_PARAMETERS = tuple(
    f"pool_project.{name}"
    for name in ("query_token", "pooler.norm1_q", "pooler.norm1_k", "pooler.cross_attn.q", "pooler.cross_attn.k")
)
CONTRASTIVE_PARAMETERS = ("text.ln_final", "text.text_projection", "logit_scale")
LM_HEAD_PARAMETERS = ("lm_head",)


def context_pairs(
    model: LCLModel, latents: Tensor, hidden: Tensor, batch: PackedBatch, weight: float
) -> ContrastivePairs:
    """Each image's latent and the text tower's output at the ``<soi>`` of its context."""
    context = model.text.contrastive_features(hidden.index_select(0, batch.pair_positions))
    return ContrastivePairs(
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


def batch_workload(config: LCLConfig, batch: PackedBatch, restored: int = 0) -> Workload:
    """What a batch that lies on the host makes a forward pass compute. ``restored``: hidden patches to predict."""
    patches = config.num_image_tokens if batch.patches is None else batch.patches.shape[1]
    return Workload(len(batch.pixel_values), patches, batch.lengths, len(batch.labels), restored)


def compute_loss(objective: Objective, model: LCLModel, batch: PackedBatch) -> LCLOutput:
    """Every loss of ``batch`` as the mean over its items, each already x its weight."""
    encoding = objective.encode(model, batch)
    sums = objective.losses(model, batch, encoding, GlobalBatch()).sums
    counts = objective.counts(batch)
    losses = {name: mean_over_items(term.total, counts[name], model) * term.weight for name, term in sums.items()}
    pairs, reading = encoding.pairs, encoding.reading
    if pairs is not None:
        losses["contrastive"] = _contrastive_mean(pairs, model)
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


def mean_over_items(total: Tensor, count: int, model: LCLModel) -> Tensor:
    """total / count; over no items it is 0, and NaN in the authors' numerics, as theirs is."""
    return total / (count if model.config.numerics == "official" else max(count, 1))


def _contrastive_mean(pairs: ContrastivePairs, model: LCLModel) -> Tensor:
    total = contrastive_loss(pairs.image_features, pairs.text_features, model.logit_scale).loss
    return mean_over_items(total, len(pairs.image_features), model) * pairs.weight
