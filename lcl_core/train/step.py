"""One optimiser step over the micro-batches of all ranks, exactly as over the one big batch that they make up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lcl_core.model import LCLModel, PackedBatch
from lcl_core.objectives import Objective, Pairs, Terms
from lcl_core.objectives.contrast import Contrast, contrast
from lcl_core.train.device import Precision, autocast
from lcl_core.train.gradients import clip, gradient_norm
from lcl_core.train.module import TrainingModule
from lcl_core.train.parallel import average_unsharded, share, without_sync
from lcl_core.train.ranks import Ranks
from lcl_core.train.shares import CONTRASTIVE, Shares, agree


@dataclass(frozen=True)
class StepReport:
    """Scalars that are still on the device.

    Attributes:
        losses: by name, this rank's share, already x its weight: shares add up to the step's losses.
        correct: pairs of this rank whose image is nearest to its own text among those of all ranks.
        pairs: contrastive pairs of all ranks.
        norm: of the gradient.
        finite: 1 if the step was taken, 0 if a loss or the gradient was no number and the weights stayed as they were.
    """

    losses: dict[str, Tensor]
    correct: Tensor
    pairs: int
    norm: Tensor
    finite: Tensor


class TrainingStep:
    """Forward, backward, clip, step, clamp.

    Args:
        strategy: how several processes share the model (``parallel.STRATEGIES``).
        max_grad_norm: longest gradient; none: not clipped.
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
        self.module: nn.Module = share(TrainingModule(model, objective), strategy)
        self._precision, self._limit = precision, math.inf if max_grad_norm is None else max_grad_norm

    def __call__(self, optimizer: torch.optim.Optimizer, batches: Sequence[PackedBatch]) -> StepReport:
        """Learn from this rank's micro-batches. All ranks call it with equally many; their sizes may differ."""
        shares = agree(self.objective, batches, self.ranks, self.model.config.numerics == "official")
        optimizer.zero_grad(set_to_none=True)
        losses, correct = self._one(batches[0], shares) if len(batches) == 1 else self._several(batches, shares)
        average_unsharded(self.module, self.model)
        norm = gradient_norm(self.model.parameters())
        clip(self.model.parameters(), self._limit, norm)
        # the norm alone tells; only the authors' mean over no pairs is no number and leaves the gradient alone
        finite = torch.isfinite(norm).float()
        self._apply(optimizer, finite)
        self.model.clamp_logit_scale_()
        return StepReport(losses, correct, sum(shares.pairs), norm, finite)

    def _one(self, batch: PackedBatch, shares: Shares) -> tuple[dict[str, Tensor], Tensor]:
        with self._autocast():
            terms: Terms = self.module(batch)
        losses = _summed(terms, shares)
        correct = batch.pixel_values.new_zeros(())
        if terms.pairs is not None:
            found = self._contrast(terms.pairs, self.model.logit_scale, shares)
            losses[CONTRASTIVE], correct = found.loss, found.correct
        _total(losses).backward()
        return self._shares_of(losses), correct

    def _several(self, batches: Sequence[PackedBatch], shares: Shares) -> tuple[dict[str, Tensor], Tensor]:
        """Micro-batches: the contrastive loss meets the features of all of them, and each learns its part of it.

        Features are computed once without gradient; the gradient of the loss with respect to them is kept, and given
        to each micro-batch when it is computed again (gradient caching, arXiv 2101.06983).
        """
        cached = self._cache(batches, shares)
        losses = dict(cached.losses)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with without_sync(self.module, skip=not last):
                with self._autocast():
                    terms: Terms = self.module(batch)
                own = _summed(terms, shares)
                part = _total(own) + cached.pull(terms.pairs, number)
                if last:
                    part = part + cached.pull_scale(self.model.logit_scale)
                part.backward()
            for name, loss in own.items():
                losses[name] = losses.get(name, 0.0) + loss.detach()
        return self._shares_of(losses), cached.correct

    def _cache(self, batches: Sequence[PackedBatch], shares: Shares) -> _Cached:
        if not shares.pairs:
            return _Cached({}, torch.zeros((), device=self.model.device), [], [], None)
        with torch.no_grad(), self._autocast():
            pairs = [_pairs_of(self.module(batch)) for batch in batches]
        image = torch.cat([part.image_features for part in pairs]).requires_grad_()
        text = torch.cat([part.text_features for part in pairs]).requires_grad_()
        scale = self.model.logit_scale.detach().requires_grad_()
        found = self._contrast(Pairs(image, text, pairs[0].weight), scale, shares)
        by_image, by_text, by_scale = torch.autograd.grad(found.loss, (image, text, scale))
        sizes = [len(part.image_features) for part in pairs]
        losses = {CONTRASTIVE: found.loss.detach()}
        return _Cached(losses, found.correct, by_image.split(sizes), by_text.split(sizes), by_scale)

    def _contrast(self, pairs: Pairs, logit_scale: Tensor, shares: Shares) -> Contrast:
        found = contrast(pairs.image_features, pairs.text_features, logit_scale, shares.pairs)
        return Contrast(found.loss * (pairs.weight * shares.scales[CONTRASTIVE]), found.correct)

    def _shares_of(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: loss.detach() / self.ranks.size for name, loss in losses.items()}

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


@dataclass(frozen=True)
class _Cached:
    """The contrastive loss of the whole effective batch, and its gradients by micro-batch."""

    losses: dict[str, Tensor]
    correct: Tensor
    by_image: Sequence[Tensor]
    by_text: Sequence[Tensor]
    by_scale: Tensor | None

    def pull(self, pairs: Pairs | None, number: int) -> Tensor | float:
        """A scalar whose gradient with respect to the features is the cached one."""
        if pairs is None or self.by_scale is None:
            return 0.0
        image = (pairs.image_features * self.by_image[number]).sum()
        return image + (pairs.text_features * self.by_text[number]).sum()

    def pull_scale(self, logit_scale: Tensor) -> Tensor | float:
        return 0.0 if self.by_scale is None else logit_scale * self.by_scale


def _summed(terms: Terms, shares: Shares) -> dict[str, Tensor]:
    return {name: term.total * (term.weight * shares.scales[name]) for name, term in terms.sums.items()}


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _pairs_of(terms: Terms) -> Pairs:
    assert terms.pairs is not None
    return terms.pairs
