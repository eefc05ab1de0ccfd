"""One optimiser step over the micro-batches of all ranks, exactly as over the one big batch that they make up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lcl_core.model import LCLModel, PackedBatch
from lcl_core.objectives import Encoding, Joint, Objective, Pairs, Ratio, Terms
from lcl_core.objectives.contrast import Contrast, contrast
from lcl_core.objectives.offers import Offer, gathered, joined
from lcl_core.train.device import Precision, autocast
from lcl_core.train.gradients import clip, gradient_norm
from lcl_core.train.module import TrainingModule
from lcl_core.train.parallel import average_unsharded, share, without_sync
from lcl_core.train.ranks import Ranks
from lcl_core.train.shares import CONTRASTIVE, Shares, agree

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
    metrics: dict[str, Ratio]
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
        ranks: Ranks,
        precision: Precision = "fp32",
        strategy: str = "ddp",
        max_grad_norm: float | None = None,
    ) -> None:
        self.model, self.objective, self.ranks = model, objective, ranks
        self.trained = TrainingModule(model, objective)
        self.module: nn.Module = share(self.trained, strategy)
        self._precision, self._limit = precision, math.inf if max_grad_norm is None else max_grad_norm

    def __call__(
        self, optimizer: torch.optim.Optimizer, batches: Sequence[PackedBatch], measured: bool = False
    ) -> StepReport:
        """Learn from this rank's micro-batches. All ranks call it with equally many; their sizes may differ.

        Args:
            measured: find metrics too that cost time.
        """
        shares = agree(self.objective, batches, self.ranks, self.model.config.numerics == "official")
        optimizer.zero_grad(set_to_none=True)
        take = self._one if len(batches) == 1 else self._several
        losses, metrics = take(batches, shares, measured)
        average_unsharded(self.module, self.model)
        norm = gradient_norm(self.trained.parameters())
        clip(self.trained.parameters(), self._limit, norm)
        # the norm alone tells; only the authors' mean over no pairs is no number and leaves the gradient alone
        finite = torch.isfinite(norm).float()
        self._apply(optimizer, finite)
        self.model.clamp_logit_scale_()
        losses = {name: loss.detach() / self.ranks.size for name, loss in losses.items()}
        return StepReport(losses, metrics, norm, finite)

    def _one(self, batches: Sequence[PackedBatch], shares: Shares, measured: bool) -> Found:
        def meet(own: Offer) -> Offer:
            return gathered(joined([own], shares.widest), shares.pairs)

        terms = self._terms(batches[0], Joint(meet, measured))
        losses, metrics = _summed(terms, shares), dict(terms.losses.metrics)
        if (pairs := terms.encoding.pairs) is not None:
            found = self._contrast(pairs, self.model.logit_scale, shares)
            losses[CONTRASTIVE], metrics[ACCURACY] = found.loss, _accuracy(found, pairs)
        _total(losses, terms.idle).backward()
        return losses, metrics

    def _several(self, batches: Sequence[PackedBatch], shares: Shares, measured: bool) -> Found:
        """Micro-batches: the contrastive loss meets the features of all of them, and each learns its part of it.

        Features are computed once without gradient; the gradient of the loss with respect to them is kept, and given
        to each micro-batch when it is computed again (gradient caching, arXiv 2101.06983).
        """
        cached = self._cache(batches, shares)
        losses, metrics = dict(cached.losses), dict(cached.metrics)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with without_sync(self.module, skip=not last):
                terms = self._terms(batch, Joint(cached.meet, measured))
                own = _summed(terms, shares)
                parts = own | cached.pull(terms.encoding.pairs, number)
                if last:
                    parts |= cached.pull_scale(self.model.logit_scale)
                _total(parts, terms.idle).backward()
            for name, loss in own.items():
                losses[name] = losses.get(name, 0.0) + loss.detach()
            for name, ratio in terms.losses.metrics.items():
                metrics[name] = _added(metrics.get(name), ratio)
        return losses, metrics

    def _cache(self, batches: Sequence[PackedBatch], shares: Shares) -> _Cached:
        if not shares.pairs:
            return _Cached()
        pairs, offers = self._first_pass(batches)
        image = torch.cat([part.image_features for part in pairs]).requires_grad_()
        text = torch.cat([part.text_features for part in pairs]).requires_grad_()
        scale = self.model.logit_scale.detach().requires_grad_()
        whole = Pairs(image, text, pairs[0].weight)
        found = self._contrast(whole, scale, shares)
        by_image, by_text, by_scale = torch.autograd.grad(found.loss, (image, text, scale))
        sizes = [len(part.image_features) for part in pairs]
        return _Cached(
            losses={CONTRASTIVE: found.loss.detach()},
            metrics={ACCURACY: _accuracy(found, whole)},
            by_image=by_image.split(sizes),
            by_text=by_text.split(sizes),
            by_scale=by_scale,
            offered=gathered(joined(offers, shares.widest), shares.pairs) if offers else None,
        )

    def _first_pass(self, batches: Sequence[PackedBatch]) -> tuple[list[Pairs], list[Offer]]:
        """What the effective batch has to know of each micro-batch."""
        pairs, offers = [], []
        for batch in batches:
            with torch.no_grad(), self._autocast():
                encoding: Encoding = self.module(batch)
            assert encoding.pairs is not None
            pairs.append(encoding.pairs)
            if encoding.offer is not None:
                offers.append(encoding.offer)
        return pairs, offers

    def _terms(self, batch: PackedBatch, joint: Joint) -> Terms:
        with self._autocast():
            terms: Terms = self.module(batch, joint)
        return terms

    def _contrast(self, pairs: Pairs, logit_scale: Tensor, shares: Shares) -> Contrast:
        found = contrast(pairs.image_features, pairs.text_features, logit_scale, shares.pairs)
        return Contrast(found.loss * (pairs.weight * shares.scales[CONTRASTIVE]), found.correct)

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


Found = tuple[dict[str, Tensor], dict[str, Ratio]]  # losses and metrics


@dataclass(frozen=True)
class _Cached:
    """The contrastive loss of the whole effective batch with its gradients by micro-batch, and what all may draw from.

    Empty for an objective that does not contrast.
    """

    losses: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Ratio] = field(default_factory=dict)
    by_image: Sequence[Tensor] = ()
    by_text: Sequence[Tensor] = ()
    by_scale: Tensor | None = None
    offered: Offer | None = None

    def meet(self, own: Offer) -> Offer:
        assert self.offered is not None
        return self.offered

    def pull(self, pairs: Pairs | None, number: int) -> dict[str, Tensor]:
        """A scalar whose gradient with respect to the features is the cached one."""
        if pairs is None:
            return {}
        image = (pairs.image_features * self.by_image[number]).sum()
        return {"pull": image + (pairs.text_features * self.by_text[number]).sum()}

    def pull_scale(self, logit_scale: Tensor) -> dict[str, Tensor]:
        return {} if self.by_scale is None else {"pull_scale": logit_scale * self.by_scale}


def _summed(terms: Terms, shares: Shares) -> dict[str, Tensor]:
    return {name: term.total * (term.weight * shares.scales[name]) for name, term in terms.losses.sums.items()}


def _total(losses: Mapping[str, Tensor], idle: Tensor | None) -> Tensor:
    parts = [*losses.values(), *([] if idle is None else [idle])]
    return torch.stack(parts).sum()


def _accuracy(found: Contrast, pairs: Pairs) -> Ratio:
    return Ratio(found.correct, torch.full_like(found.correct, len(pairs.image_features)))


def _added(one: Ratio | None, other: Ratio) -> Ratio:
    return other if one is None else Ratio(one.total + other.total, one.count + other.count)
