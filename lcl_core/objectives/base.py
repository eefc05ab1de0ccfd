"""Interface of a pre-training objective, and what it returns.

Losses are sums with counts, so that they add up over micro-batches and ranks. A step calls ``collate`` on the host,
``encode`` for each micro-batch, and ``losses`` once the features of the global batch are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from lcl_core.estimate.flops import FORWARD_FLOPS, FORWARDS_PER_STEP, Workload
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import Activations, LCLModel
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.hard_negatives import NegativeCandidates
from lcl_core.ops.contrastive_loss import ContrastiveSums, PairTerms, contrastive_loss, sigmoid_contrastive_loss
from lcl_core.specs.pretrain import MethodName, ObjectiveSpec

# prefixes of names of the model's parameters
POOLER_QUERY_PARAMETERS = tuple(
    f"pool_project.{name}"
    for name in ("query_token", "pooler.norm1_q", "pooler.norm1_k", "pooler.cross_attn.q", "pooler.cross_attn.k")
)
CONTRASTIVE_PARAMETERS = ("text.ln_final", "text.text_projection", "logit_scale")
LM_HEAD_PARAMETERS = ("lm_head",)
INITIAL_LOGIT_BIAS = -10.0  # of the sigmoid loss (SigLIP, section 3.2)


@dataclass(frozen=True)
class SummedLoss:
    """A loss summed over items; the step divides it by the items of the global batch.

    Attributes:
        total: scalar, fp32.
        weight: of the mean in the loss.
    """

    total: Tensor
    weight: float


@dataclass(frozen=True)
class MeanMetric:
    """A logged number, ``total / count``: both add up. Scalars without gradient."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class ContrastivePairs:
    """Features for the contrastive loss over the global batch.

    Attributes:
        image_features, text_features: [M, E], L2-normalised, row-aligned.
        weight: of the contrastive loss.
        groups: [M] or [M, k] int64; pairs with an equal number are positives of each other. None: each pair alone.
        terms: of the pairs; a text is a positive of an image of which all its terms are true. None: not compared.
        logit_bias: scalar, makes the loss a sigmoid loss. None: InfoNCE.
    """

    image_features: Tensor
    text_features: Tensor
    weight: float
    groups: Tensor | None = None
    logit_bias: Tensor | None = None
    terms: PairTerms | None = None

    def loss(self, logit_scale: Tensor, counts: Sequence[int]) -> ContrastiveSums:
        """Unweighted loss of this rank's rows against the pairs of all ranks.

        Args:
            counts: pairs of each rank.
        """
        features = self.image_features, self.text_features, logit_scale
        if self.logit_bias is None:
            return contrastive_loss(*features, counts, self.groups, self.terms)
        return sigmoid_contrastive_loss(*features, self.logit_bias, counts, self.groups, self.terms)

    @staticmethod
    def concatenate(parts: Sequence[ContrastivePairs]) -> ContrastivePairs:
        """The pairs of several batches of one rank, in order. ``parts`` is not empty."""
        groups = [part.groups for part in parts if part.groups is not None]
        terms = [part.terms for part in parts if part.terms is not None]
        return replace(
            parts[0],
            image_features=torch.cat([part.image_features for part in parts]),
            text_features=torch.cat([part.text_features for part in parts]),
            groups=torch.cat(groups) if groups else None,
            terms=PairTerms(*(torch.cat(rows) for rows in zip(*terms, strict=True))) if terms else None,
        )


@dataclass(frozen=True)
class EncodedBatch:
    """First part of a forward pass, which depends on this batch alone.

    Attributes:
        activations: of both towers.
        pairs: for the contrastive loss, if the objective has one.
        candidates: for hard negatives of the global batch, if the objective samples them.
    """

    activations: Activations
    pairs: ContrastivePairs | None = None
    candidates: NegativeCandidates | None = None


@dataclass(frozen=True)
class BatchLosses:
    """Second part of a forward pass: losses and metrics by name, without the contrastive loss."""

    sums: Mapping[str, SummedLoss]
    metrics: Mapping[str, MeanMetric] = field(default_factory=dict)


@dataclass(frozen=True)
class LossTerms:
    """Everything that a batch contributes to the loss and to the metric line.

    Attributes:
        unused: 0, with a gradient of 0 for each parameter that the objective does not use; none where it uses all.
    """

    encoded: EncodedBatch
    losses: BatchLosses
    unused: Tensor | None = None


for _type in (SummedLoss, MeanMetric, ContrastivePairs, NegativeCandidates, EncodedBatch, BatchLosses, LossTerms):
    register_dataclass(_type)  # FSDP searches what a forward pass returns for tensors


@dataclass(frozen=True)
class GlobalBatch:
    """What a forward pass may know about the global batch: all micro-batches of the step on all ranks.

    Attributes:
        gather: candidates of this batch → candidates of the global batch.
        compute_metrics: whether to compute metrics that cost time: in steps that are logged.
    """

    gather: Callable[[NegativeCandidates], NegativeCandidates] = NegativeCandidates.detached
    compute_metrics: bool = False


class Objective(nn.Module):
    """A pre-training method. Its own parameters are trained and kept like the model's, but never exported.

    Attributes:
        name: as in ``ObjectiveSpec``.
        weights: of its losses by name.
        unused_parameters: prefixes of the names of the model's parameters that it does not use. Their gradient is 0.
        reads_image_outputs: whether a loss reads the text tower's outputs at image tokens.
    """

    name: ClassVar[MethodName]
    reads_image_outputs: ClassVar[bool] = False
    unused_parameters: tuple[str, ...] = ()

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
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        """Pack documents as the method reads them, with every index that it needs; on the host.

        Args:
            rows: token ids of each document, long, at its own length.
            pixel_values: [n, 3, S, S], their images in order.
            keys: a 64-bit number for each document, a function of the seed and the document's position in the data,
                from which random choices derive. None: the document's position in the batch.
        """
        batch = PackedBatch.pack(rows, pixel_values, config)
        # documents end with the last position that a loss reads; the authors' numerics also accept documents whose
        # placeholders do not match their images, which cannot be cut
        whole = self.reads_image_outputs or config.numerics == "official"
        return batch if whole else batch.trim()

    @property
    def reads_terms(self) -> bool:
        """Whether the losses depend on the terms of images and captions."""
        return False

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        """Items that each of its sums runs over, by name, and ``contrastive`` pairs; known on the host."""
        raise NotImplementedError

    def max_text_length(self, batch: PackedBatch) -> int:
        """Columns of the batch's candidate texts; 0 without candidates."""
        return 0

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        """Activations of the batch, and what the rest of the global batch needs from it."""
        raise NotImplementedError

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        """The losses without the contrastive one, which the step computes from ``encoded.pairs``."""
        raise NotImplementedError

    def before_training(self, model: LCLModel) -> None:
        """Set what the method derives from the model's initial weights."""

    def after_step(self, model: LCLModel) -> None:
        """Update what the method derives from the model's weights, after each step of the optimiser."""

    def workload(self, config: LCLConfig, batch: PackedBatch) -> Workload:
        """Counts of a batch on the host, from which FLOPs follow."""
        return Workload(len(batch.pixel_values), config.num_image_tokens, batch.lengths, len(batch.labels))

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        """Useful floating-point operations of a training step over a batch on the host."""
        return FORWARDS_PER_STEP * FORWARD_FLOPS[self.name](config, self.workload(config, batch))


class ContrastiveObjective(Objective):
    """A method with a contrastive loss: InfoNCE or sigmoid, with one or several positives per pair.

    Args:
        spec: form of the contrastive loss. None: InfoNCE, each pair its own positive.
    """

    def __init__(self, weights: Mapping[str, float], spec: ObjectiveSpec | None = None) -> None:
        super().__init__(weights)
        self.positives = "own" if spec is None else spec.positives
        sigmoid = spec is not None and spec.contrastive_loss == "sigmoid"
        self.logit_bias = nn.Parameter(torch.tensor(INITIAL_LOGIT_BIAS)) if sigmoid else None

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        return cls(spec.weights, spec)

    @property
    def reads_terms(self) -> bool:
        return self.positives == "shared_keywords"

    def contrast(self, model: LCLModel, latents: Tensor, hidden: Tensor, batch: PackedBatch) -> ContrastivePairs:
        """Features of the batch's pairs, from pooled latents [n, D] and the text tower's outputs [T, D]."""
        features = model.contrastive_pairs(latents, hidden, batch)
        groups = None if self.positives == "own" else batch.pair_groups
        if self.positives in ("same_concept", "shared_keywords"):
            groups = batch.pair_identities
        terms = batch.pair_terms if self.reads_terms else None
        return ContrastivePairs(*features, self.weights["contrastive"], groups, self.logit_bias, terms)
