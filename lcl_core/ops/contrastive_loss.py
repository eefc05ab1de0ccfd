"""Contrastive loss of a batch that is split over several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class PairTerms(NamedTuple):
    """What the images and the texts of [m] pairs say, as int64 numbers of terms; 0 fills the rows.

    Attributes:
        image: [m, K] the terms that are true of each image.
        text: [m, k] the terms that each text consists of; all 0: they are not known.
    """

    image: Tensor
    text: Tensor


class ContrastiveSums(NamedTuple):
    """Sums over the rows of this rank.

    Attributes:
        loss: scalar, fp32.
        correct: images whose nearest text is one of their own, scalar, fp32, without gradient.
    """

    loss: Tensor
    correct: Tensor


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    counts: Sequence[int] | None = None,
    groups: Tensor | None = None,
    terms: PairTerms | None = None,
) -> ContrastiveSums:
    """Symmetric InfoNCE of this rank's pairs against those of all ranks, summed over this rank's rows.

    With S = exp(logit_scale) I T^T over the pairs of all ranks, the rows' loss is the mean of both cross-entropies
    (lcl-spec section 4); the sum over ranks is M times the loss of the joint batch, and so are its gradients: the
    features of other ranks get theirs.

    Args:
        image_features, text_features: [m, E] L2-normalised, row-aligned; m may differ between ranks and may be 0.
        logit_scale: logarithm of the inverse temperature, scalar.
        counts: pairs of each rank. Known on the host, so that no shape waits for a device. None: this process alone.
        groups: [m] or [m, k] int64. Pairs with an equal number are positives of each other: the target of a row is
            uniform over them (UniCL, arXiv 2204.03610, equation 3). None: each pair is a group of its own.
        terms: with ``groups``; a text is a positive of an image, too, if all its terms are the image's.
    """
    joint = _gather_pairs(image_features, text_features, groups, terms, counts)
    scale = logit_scale.exp()
    by_image = joint.mask(similarities(scale * joint.image, joint.texts), float("-inf"))
    by_text = joint.mask(similarities(scale * joint.text, joint.images), float("-inf"))
    target = torch.arange(joint.first, joint.first + len(by_image), device=by_image.device)
    if groups is None:
        loss = F.cross_entropy(by_image, target, reduction="sum") + F.cross_entropy(by_text, target, reduction="sum")
    else:
        by_image_loss = _shared_cross_entropy(by_image, joint.positives)
        loss = by_image_loss + _shared_cross_entropy(by_text, joint.positives_of_texts)
    return ContrastiveSums(0.5 * loss, _count_correct(by_image, target, None if groups is None else joint.positives))


def sigmoid_contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    counts: Sequence[int] | None = None,
    groups: Tensor | None = None,
    terms: PairTerms | None = None,
) -> ContrastiveSums:
    """Sigmoid loss (SigLIP, arXiv 2303.15343, section 3.2): each image and text is a two-class problem of its own.

    -log sigmoid(z_ij (exp(logit_scale) I_i T_j + logit_bias)), z = 1 for positives, else -1,
    summed over this rank's images and all ranks' texts. The sum over ranks is M times the loss of the joint batch.

    Args:
        logit_bias: scalar; offsets the many negatives, -10 at the start.
        image_features, text_features, logit_scale, counts, groups, terms: as in :func:`contrastive_loss`.
    """
    joint = _gather_pairs(image_features, text_features, groups, terms, counts)
    logits = similarities(logit_scale.exp() * joint.image, joint.texts) + logit_bias
    target = torch.arange(joint.first, joint.first + len(logits), device=logits.device)
    columns = torch.arange(logits.shape[1], device=logits.device)
    positives = joint.positives if groups is not None else target[:, None] == columns
    loss = joint.mask(F.softplus(torch.where(positives, -logits, logits)), 0.0).sum()
    return ContrastiveSums(loss, _count_correct(joint.mask(logits, float("-inf")), target, positives))


def similarities(rows: Tensor, columns: Tensor) -> Tensor:
    """Products [n, m] of rows [n, E] and [m, E] in fp32, also under autocast: rounded to bf16, many would be ties."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float().T


class _JointPairs(NamedTuple):
    """This rank's features [m, E] and those of all ranks [M, E], fp32; ranks are padded to equally many rows.

    Attributes:
        first: row of this rank's first pair.
        valid: [M] false at padding; None: there is none.
        positives: [m, M] the texts that are positives of this rank's images; empty without groups.
        positives_of_texts: [m, M] the images that are positives of this rank's texts; empty without groups.
    """

    image: Tensor
    text: Tensor
    images: Tensor
    texts: Tensor
    first: int
    valid: Tensor | None
    positives: Tensor
    positives_of_texts: Tensor

    def mask(self, values: Tensor, filler: float) -> Tensor:
        """Replace the columns of padding."""
        return values if self.valid is None else values.masked_fill(~self.valid, filler)


def share_group(own: Tensor, others: Tensor) -> Tensor:
    """[m, M] bool of groups [m] and [M], or [m, k] and [M, k]: equal in any column."""
    if own.dim() == 1:
        return own[:, None] == others
    columns = zip(own.unbind(1), others.unbind(1), strict=True)
    return torch.stack([mine[:, None] == theirs for mine, theirs in columns]).any(dim=0)


def describes(texts: Tensor, images: Tensor) -> Tensor:
    """[m, M] bool: whether all terms of a text [m, k] are among those of an image [M, K], and there is one."""
    known = torch.ones(len(texts), len(images), dtype=torch.bool, device=texts.device)
    for term in texts.unbind(1):  # one at a time: [m, M, K] at most
        known &= (term[:, None] == 0) | (term[:, None, None] == images).any(2)
    return known & (texts != 0).any(1)[:, None]


def _gather_pairs(
    image_features: Tensor,
    text_features: Tensor,
    groups: Tensor | None,
    terms: PairTerms | None,
    counts: Sequence[int] | None,
) -> _JointPairs:
    image, text = image_features.float(), text_features.float()
    own = torch.empty(0, dtype=torch.int64, device=image.device) if groups is None else groups
    if counts is None or len(counts) == 1:
        return _JointPairs(image, text, image, text, 0, None, *_positives(own, own, terms, terms))
    capacity = max(counts)
    gathered = _AllGather.apply(torch.stack((_pad_to(image, capacity), _pad_to(text, capacity))))
    images, texts = gathered[:, 0].flatten(0, 1), gathered[:, 1].flatten(0, 1)  # [world * capacity, E]
    valid = (torch.arange(capacity) < torch.tensor(counts)[:, None]).flatten().to(image.device, non_blocking=True)
    positives = _positives(own, own, None, None)
    if groups is not None:
        gathered_terms = None if terms is None else PairTerms(*(_gather_rows(part, counts) for part in terms))
        found = _positives(own, _gather_rows(own, counts), terms, gathered_terms)
        positives = found[0] & valid, found[1] & valid
    return _JointPairs(image, text, images, texts, dist.get_rank() * capacity, valid, *positives)


def _positives(
    own: Tensor, others: Tensor, own_terms: PairTerms | None, other_terms: PairTerms | None
) -> tuple[Tensor, Tensor]:
    """[m, M] bool each: the positives among the others' texts of the own images, and the reverse."""
    same = share_group(own, others)
    if own_terms is None or other_terms is None:
        return same, same
    return (
        same | describes(other_terms.text, own_terms.image).T,
        same | describes(own_terms.text, other_terms.image),
    )


def _gather_rows(own: Tensor, counts: Sequence[int]) -> Tensor:
    """[m, …] of each rank, padded to the most rows → [world * that, …]."""
    capacity = max(counts)
    gathered = own.new_empty(len(counts) * capacity, *own.shape[1:])
    dist.all_gather_into_tensor(gathered, _pad_to(own, capacity))
    return gathered


def _shared_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """Cross-entropies of [m, M] logits, whose targets are uniform over each row's positives, summed."""
    mean = logits.masked_fill(~positives, 0.0).sum(1) / positives.sum(1)
    return (logits.logsumexp(1) - mean).sum()


def _count_correct(by_image: Tensor, target: Tensor, positives: Tensor | None) -> Tensor:
    if by_image.shape[1] == 0:
        return by_image.new_zeros(())
    nearest = by_image.detach().argmax(1)
    return (nearest == target if positives is None else positives.gather(1, nearest[:, None])).float().sum()


def _pad_to(x: Tensor, rows: int) -> Tensor:
    return torch.cat((x, x.new_zeros(rows - len(x), *x.shape[1:])))


class _AllGather(torch.autograd.Function):
    """[...] → [world, ...], with gradient to every rank's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(dist.get_world_size(), *x.shape)
        dist.all_gather_into_tensor(out, x.contiguous()[None])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        own = grad.new_empty(1, *grad.shape[1:])
        dist.reduce_scatter_tensor(own, grad.contiguous())
        return own[0]
