"""One optimiser step over the micro-batches of all ranks, equal to the step over the one batch that they make up.

gather → encode → loss → backward → clip → step. Losses are means over the global batch. With several micro-batches the
contrastive loss uses gradient caching (arXiv 2101.06983): features are computed once without gradient, the gradient of
the loss with respect to them is kept, and passed to each micro-batch when it is encoded again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lcl_core.common.device import Precision, autocast
from lcl_core.model import LCLModel, PackedBatch
from lcl_core.objectives.base import ContrastivePairs, EncodedBatch, GlobalBatch, LossTerms, MeanMetric, Objective
from lcl_core.objectives.hard_negatives import NegativeCandidates, all_gather_candidates, concatenate_candidates
from lcl_core.ops.contrastive_loss import ContrastiveSums, contrastive_loss
from lcl_core.train.distributed import RankGroup, TrainingModule, average_unsharded_gradient, no_sync, parallelize_model


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The L2 norm over all gradients of all ranks, a scalar on the device; 0 where there is none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded: list[Tensor] = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = []
    for part in (whole, sharded):
        if part:
            norm = torch.nn.utils.get_total_norm(part)
            norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return torch.stack(norms).norm() if norms else torch.zeros(())


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], limit: float, norm: Tensor) -> None:
    """Shorten the gradients so that ``norm`` becomes at most ``limit``."""
    if math.isinf(limit):
        return
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            local.mul_(factor.to(local.device))


CONTRASTIVE = "contrastive"


@dataclass(frozen=True)
class GlobalBatchCounts:
    """What all ranks know of a step before it begins; counted on the host.

    Attributes:
        scales: by loss name, what its sum over this rank's items is multiplied with, so that the average over ranks
            (which is what DDP and FSDP make of gradients) is the mean over all items.
        pairs: contrastive pairs of each rank, all its micro-batches together.
        widest: columns of the longest text that any of them offers to the others.
    """

    scales: Mapping[str, float]
    pairs: Sequence[int]
    widest: int


def count_global_batch(
    objective: Objective, batches: Sequence[PackedBatch], ranks: RankGroup, official: bool
) -> GlobalBatchCounts:
    """Count the items of all ranks.

    In ``official`` numerics every rank takes the mean over its own items, and the average of these means is biased
    towards ranks with few (lcl-spec defect 20); a mean over nothing is NaN there, and 0 otherwise.
    """
    own: dict[str, int] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            own[name] = own.get(name, 0) + count
    names = sorted(own)
    widest = max(objective.widest(batch) for batch in batches)
    *table, widths = zip(*ranks.gather_numbers([*(own[name] for name in names), widest]), strict=True)
    if official:
        scales = {name: 1 / own[name] if own[name] else float("nan") for name in names}
    else:
        scales = {name: ranks.size / max(sum(counts), 1) for name, counts in zip(names, table, strict=True)}
    pairs = table[names.index(CONTRASTIVE)] if CONTRASTIVE in own else []
    return GlobalBatchCounts(scales, pairs, max(widths))


ACCURACY = "in_batch_accuracy"


@dataclass(frozen=True)
class StepReport:
    """Scalars that are still on the device.

    Attributes:
        losses: by name, this rank's share, already x its weight: shares add up to the step's losses.
        metrics: other numbers by name, of this rank's batches; totals and counts add up.
        norm: of the gradient.
        finite: 1 if the step was taken, 0 if a loss or the gradient was no number and the weights stayed as they were.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, MeanMetric]
    norm: Tensor
    finite: Tensor


class TrainingStep:
    """Forward, backward, clip, step, clamp.

    Args:
        strategy: how several processes share the model (``parallel.STRATEGIES``).
        max_grad_norm: longest gradient; none: not clipped.
    Attributes:
        trained: model and objective, whose parameters the optimiser takes.
    """

    def __init__(
        self,
        model: LCLModel,
        objective: Objective,
        ranks: RankGroup,
        precision: Precision = "fp32",
        strategy: str = "ddp",
        max_grad_norm: float | None = None,
    ) -> None:
        self.model, self.objective, self.ranks = model, objective, ranks
        self.trained = TrainingModule(model, objective)
        self.module: nn.Module = parallelize_model(self.trained, strategy)
        self._precision, self._limit = precision, math.inf if max_grad_norm is None else max_grad_norm

    def __call__(
        self, optimizer: torch.optim.Optimizer, batches: Sequence[PackedBatch], measured: bool = False
    ) -> StepReport:
        """Learn from this rank's micro-batches. All ranks call it with equally many; their sizes may differ.

        Args:
            measured: find metrics too that cost time.
        """
        shares = count_global_batch(self.objective, batches, self.ranks, self.model.config.numerics == "official")
        optimizer.zero_grad(set_to_none=True)
        take = self._one if len(batches) == 1 else self._several
        losses, metrics = take(batches, shares, measured)
        average_unsharded_gradient(self.module, self.model)
        norm = gradient_norm(self.trained.parameters())
        clip_gradients(self.trained.parameters(), self._limit, norm)
        # the norm alone tells; only the authors' mean over no pairs is no number and leaves the gradient alone
        finite = torch.isfinite(norm).float()
        self._apply(optimizer, finite)
        self.model.clamp_logit_scale_()
        losses = {name: loss.detach() / self.ranks.size for name, loss in losses.items()}
        return StepReport(losses, metrics, norm, finite)

    def _one(self, batches: Sequence[PackedBatch], shares: GlobalBatchCounts, measured: bool) -> LossesAndMetrics:
        def meet(own: NegativeCandidates) -> NegativeCandidates:
            return all_gather_candidates(concatenate_candidates([own], shares.widest), shares.pairs)

        terms = self._terms(batches[0], GlobalBatch(meet, measured))
        losses, metrics = _scaled_losses(terms, shares), dict(terms.losses.metrics)
        if (pairs := terms.encoding.pairs) is not None:
            found = self._contrast(pairs, self.model.logit_scale, shares)
            losses[CONTRASTIVE], metrics[ACCURACY] = found.loss, _accuracy(found, pairs)
        _total_loss(losses, terms.idle).backward()
        return losses, metrics

    def _several(self, batches: Sequence[PackedBatch], shares: GlobalBatchCounts, measured: bool) -> LossesAndMetrics:
        """Micro-batches: the contrastive loss meets the features of all of them, and each learns its part of it.

        Features are computed once without gradient; the gradient of the loss with respect to them is kept, and given
        to each micro-batch when it is computed again (gradient caching, arXiv 2101.06983).
        """
        cached = self._cache(batches, shares)
        losses, metrics = dict(cached.losses), dict(cached.metrics)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with no_sync(self.module, skip=not last):
                terms = self._terms(batch, GlobalBatch(cached.meet, measured))
                own = _scaled_losses(terms, shares)
                parts = own | cached.pull(terms.encoding.pairs, number)
                if last:
                    parts |= cached.pull_scale(self.model.logit_scale)
                _total_loss(parts, terms.idle).backward()
            for name, loss in own.items():
                losses[name] = losses.get(name, 0.0) + loss.detach()
            for name, ratio in terms.losses.metrics.items():
                metrics[name] = _add_metrics(metrics.get(name), ratio)
        return losses, metrics

    def _cache(self, batches: Sequence[PackedBatch], shares: GlobalBatchCounts) -> _CachedGradients:
        if not shares.pairs:
            return _CachedGradients()
        pairs, offers = self._first_pass(batches)
        image = torch.cat([part.image_features for part in pairs]).requires_grad_()
        text = torch.cat([part.text_features for part in pairs]).requires_grad_()
        scale = self.model.logit_scale.detach().requires_grad_()
        whole = ContrastivePairs(image, text, pairs[0].weight)
        found = self._contrast(whole, scale, shares)
        by_image, by_text, by_scale = torch.autograd.grad(found.loss, (image, text, scale))
        sizes = [len(part.image_features) for part in pairs]
        return _CachedGradients(
            losses={CONTRASTIVE: found.loss.detach()},
            metrics={ACCURACY: _accuracy(found, whole)},
            by_image=by_image.split(sizes),
            by_text=by_text.split(sizes),
            by_scale=by_scale,
            offered=all_gather_candidates(concatenate_candidates(offers, shares.widest), shares.pairs)
            if offers
            else None,
        )

    def _first_pass(self, batches: Sequence[PackedBatch]) -> tuple[list[ContrastivePairs], list[NegativeCandidates]]:
        """What the effective batch has to know of each micro-batch."""
        pairs, offers = [], []
        for batch in batches:
            with torch.no_grad(), self._autocast():
                encoding: EncodedBatch = self.module(batch)
            assert encoding.pairs is not None
            pairs.append(encoding.pairs)
            if encoding.offer is not None:
                offers.append(encoding.offer)
        return pairs, offers

    def _terms(self, batch: PackedBatch, joint: GlobalBatch) -> LossTerms:
        with self._autocast():
            terms: LossTerms = self.module(batch, joint)
        return terms

    def _contrast(self, pairs: ContrastivePairs, logit_scale: Tensor, shares: GlobalBatchCounts) -> ContrastiveSums:
        found = contrastive_loss(pairs.image_features, pairs.text_features, logit_scale, shares.pairs)
        return ContrastiveSums(found.loss * (pairs.weight * shares.scales[CONTRASTIVE]), found.correct)

    def _apply(self, optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
        """Step, unless the gradient is no number. The fused kernels look themselves, so the host need not wait."""
        if isinstance(self.model.lm_head[1].weight, DTensor):
            if finite.item():
                optimizer.step()
            return
        optimizer.found_inf = 1 - finite  # type: ignore[attr-defined]
        optimizer.step()

    def _autocast(self) -> torch.autocast:
        return autocast(self.model.device, self._precision)


LossesAndMetrics = tuple[dict[str, Tensor], dict[str, MeanMetric]]  # losses and metrics


@dataclass(frozen=True)
class _CachedGradients:
    """The contrastive loss of the whole effective batch with its gradients by micro-batch, and what all may draw from.

    Empty for an objective that does not contrast.
    """

    losses: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, MeanMetric] = field(default_factory=dict)
    by_image: Sequence[Tensor] = ()
    by_text: Sequence[Tensor] = ()
    by_scale: Tensor | None = None
    offered: NegativeCandidates | None = None

    def meet(self, own: NegativeCandidates) -> NegativeCandidates:
        assert self.offered is not None
        return self.offered

    def pull(self, pairs: ContrastivePairs | None, number: int) -> dict[str, Tensor]:
        """A scalar whose gradient with respect to the features is the cached one."""
        if pairs is None:
            return {}
        image = (pairs.image_features * self.by_image[number]).sum()
        return {"pull": image + (pairs.text_features * self.by_text[number]).sum()}

    def pull_scale(self, logit_scale: Tensor) -> dict[str, Tensor]:
        return {} if self.by_scale is None else {"pull_scale": logit_scale * self.by_scale}


def _scaled_losses(terms: LossTerms, shares: GlobalBatchCounts) -> dict[str, Tensor]:
    return {name: term.total * (term.weight * shares.scales[name]) for name, term in terms.losses.sums.items()}


def _total_loss(losses: Mapping[str, Tensor], idle: Tensor | None) -> Tensor:
    parts = [*losses.values(), *([] if idle is None else [idle])]
    return torch.stack(parts).sum()


def _accuracy(found: ContrastiveSums, pairs: ContrastivePairs) -> MeanMetric:
    return MeanMetric(found.correct, torch.full_like(found.correct, len(pairs.image_features)))


def _add_metrics(one: MeanMetric | None, other: MeanMetric) -> MeanMetric:
    return other if one is None else MeanMetric(one.total + other.total, one.count + other.count)
