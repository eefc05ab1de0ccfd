"""How much of their space latents fill: what falls when an encoder collapses."""

from __future__ import annotations

import torch
from torch import Tensor

from lcl_core.objectives.terms import Ratio

_TINY = 1e-30


def log_variance(latents: Tensor) -> Tensor:
    """Natural logarithm of the mean, over dimensions, of the variance over images; of [n, D] with n > 1."""
    return latents.float().var(dim=0).mean().clamp_min(_TINY).log()


def effective_rank(latents: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares (Roy & Vetterli, EUSIPCO 2007; RankMe, arXiv 2210.02885).

    Of [n, D]: from 1, where all point the same way, to min(n, D), where they fill their space evenly. The mean is not
    taken away: latents that differ only by little from one common vector have collapsed.
    """
    values = torch.linalg.svdvals(latents.float())
    shares = values / values.sum().clamp_min(_TINY)
    return torch.special.entr(shares).sum().exp()


@torch.no_grad()
def spread_metrics(latents: Tensor) -> dict[str, Ratio]:
    """Both, of a batch's pooled latents [n, D] before they are normalised; fewer than two images do not count."""
    measures = {"latent_log_variance": log_variance, "latent_effective_rank": effective_rank}
    if len(latents) < 2:
        nothing = torch.zeros((), device=latents.device)
        return {name: Ratio(nothing, nothing) for name in measures}
    one = torch.ones((), device=latents.device)
    return {name: Ratio(measure(latents), one) for name, measure in measures.items()}
