"""One optimiser step over the micro-batches of all ranks, equal to the step over the one batch that they make up.

pack → gather → encode → loss → backward → clip → step. Losses are means over the global batch. With several
micro-batches the contrastive loss uses gradient caching (arXiv 2101.06983): features are computed once without
gradient, the gradient of the loss with respect to them is kept, and passed to each micro-batch when it is encoded
again.

For a GPU, documents are packed two steps ahead in a thread, and images stay uint8, a quarter of the bytes, in pinned
memory, from which copies run asynchronously; the GPU normalises them by the same tables, bitwise as the CPU. A step
moves each micro-batch when it computes it, so that the device has the images of one at a time. On a CPU the thread that
computes the steps packs too: a second one would start a second OpenMP team, which competes for the cores.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lcl_core.common.device import Precision, autocast, tf32_matmul
from lcl_core.data.sampling.captions import MAX_CAPTION_TERMS, MAX_IMAGE_TERMS
from lcl_core.data.sampling.loader import DocumentBatch
from lcl_core.data.sampling.shuffle import mix64
from lcl_core.data.sampling.sources import Sample
from lcl_core.data.transforms import LEVEL_TABLES, normalise_levels
from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.objectives.base import ContrastivePairs, EncodedBatch, GlobalBatch, LossTerms, MeanMetric, Objective
from lcl_core.objectives.hard_negatives import NegativeCandidates
from lcl_core.ops.contrastive_loss import ContrastiveSums
from lcl_core.train.distributed import RankGroup, average_unsharded_gradients, no_sync, parallelize_model

CONTRASTIVE = "contrastive"
ACCURACY = "in_batch_accuracy"
LossesAndMetrics = tuple[dict[str, Tensor], dict[str, MeanMetric]]
T = TypeVar("T")


@dataclass(frozen=True)
class HostBatch:
    """A packed batch on the host.

    Attributes:
        packed: its ``pixel_values`` are levels, uint8, where there are ``tables``; else normalised.
        tables: int32 [n] the number of each image's table in ``LEVEL_TABLES``.
    """

    packed: PackedBatch
    tables: Tensor | None = None

    def to(self, device: torch.device) -> PackedBatch:
        """The batch on the device that computes, its images normalised."""
        batch = self.packed.to(device)
        if self.tables is None:
            return batch
        tables = self.tables.to(device, non_blocking=True)
        return replace(batch, pixel_values=normalise_on_device(batch.pixel_values, tables))


def normalise_on_device(levels: Tensor, tables: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] and the number of each image's table [n] → float32 [n, 3, H, W]."""
    channels = torch.arange(3, dtype=torch.int32, device=levels.device)
    offsets = (tables[:, None] * 3 + channels) * 256
    places = (levels + offsets[:, :, None, None]).flatten()
    return _level_values(levels.device).index_select(0, places).view(levels.shape)


@cache
def _level_values(device: torch.device) -> Tensor:
    """``LEVEL_TABLES`` on the device, flat."""
    return torch.from_numpy(LEVEL_TABLES).to(device).flatten()


@dataclass(frozen=True)
class Collator:
    """Packs documents for one objective and model.

    Attributes:
        seed: of the objective's random choices.
        pin: leave images as levels, in pinned memory, for a GPU.
    """

    objective: Objective
    config: LCLConfig
    seed: int
    pin: bool = False

    def __call__(self, batch: DocumentBatch) -> HostBatch:
        """Pack the documents, longest first: documents of similar length share a group in attention."""
        samples = sorted(batch.samples, key=lambda sample: -len(sample.token_ids))
        rows = [torch.from_numpy(sample.token_ids.astype(np.int64)) for sample in samples]
        levels = np.concatenate([sample.levels for sample in samples])
        tables = [table for sample in samples for table in sample.tables]
        pixels = torch.from_numpy(levels if self.pin else normalise_levels(levels, tables))
        keys = [mix64(self.seed, sample.position) for sample in samples]
        packed = self.objective.collate(rows, pixels, self.config, keys)
        concepts = [concept for sample in samples for concept in sample.concepts or [0] * len(sample.levels)]
        packed = replace(packed, concepts=torch.tensor(concepts, dtype=torch.int64))
        if self.objective.reads_terms:
            image_terms, caption_terms = _terms(samples)
            packed = replace(packed, image_terms=image_terms, caption_terms=caption_terms)
        if not self.pin:
            return HostBatch(packed)
        return HostBatch(packed.pin_memory(), torch.tensor(tables, dtype=torch.int32).pin_memory())


def _terms(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Terms of all images, in order, and of their captions, as ``PackedBatch`` has them; documents have none."""
    images = sum(len(sample.levels) for sample in samples)
    filled = torch.zeros(images, MAX_IMAGE_TERMS + MAX_CAPTION_TERMS, dtype=torch.int64)
    row = 0
    for sample in samples:
        image, caption = sample.terms
        filled[row, : len(image)] = torch.tensor(image, dtype=torch.int64)
        filled[row, MAX_IMAGE_TERMS : MAX_IMAGE_TERMS + len(caption)] = torch.tensor(caption, dtype=torch.int64)
        row += len(sample.levels)
    return filled[:, :MAX_IMAGE_TERMS], filled[:, MAX_IMAGE_TERMS:]


@dataclass(frozen=True)
class StepInput:
    """What one step reads on this rank.

    Attributes:
        documents: its micro-batches as they were read, and ``batches`` packed.
        flops: useful floating-point operations of the step.
    """

    documents: Sequence[DocumentBatch]
    batches: Sequence[HostBatch]
    flops: float


def step_inputs(documents: Iterator[DocumentBatch], accumulate: int, collator: Collator) -> Iterator[StepInput]:
    """``accumulate`` micro-batches a step, packed."""
    while group := list(islice(documents, accumulate)):
        batches = [collator(batch) for batch in group]
        flops = sum(collator.objective.flops(collator.config, batch.packed) for batch in batches)
        yield StepInput(group, batches, flops)


@contextmanager
def prefetch(items: Iterator[T], device: torch.device) -> Iterator[Iterator[T]]:
    """The endless items, computed up to two ahead in a thread if ``device`` computes the steps asynchronously."""
    if device.type != "cuda":
        yield items
        return
    thread = ThreadPoolExecutor(1, "prefetch")
    coming = deque(thread.submit(next, items) for _ in range(2))

    def in_order() -> Iterator[T]:
        while True:
            item = coming.popleft().result()
            coming.append(thread.submit(next, items))
            yield item

    try:
        yield in_order()
    finally:
        thread.shutdown(wait=False, cancel_futures=True)  # a remote read may take longer than the run should wait


AnyBatch = HostBatch | PackedBatch


@dataclass(frozen=True)
class StepReport:
    """Scalars of a step, the tensors still on the device.

    Attributes:
        losses: by name, this rank's share, already x its weight: shares add up to the step's losses.
        metrics: other numbers by name, of this rank's batches; totals and counts add up.
        norm: of the gradient.
        finite: 1 if the model was updated, 0 if a loss or the gradient was not finite and it stayed as it was.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, MeanMetric]
    norm: Tensor
    finite: Tensor


class TrainingModule(nn.Module):
    """What DDP and FSDP wrap: the model and the objective, with one forward pass for all loss terms of a batch."""

    def __init__(self, model: LCLModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: PackedBatch, global_batch: GlobalBatch | None = None) -> EncodedBatch | LossTerms:
        """The loss terms of a batch; without ``global_batch`` only its encoding."""
        encoded = self.objective.encode(self.model, batch)
        if global_batch is None:
            return encoded
        losses = self.objective.losses(self.model, batch, encoded, global_batch)
        return LossTerms(encoded, losses, self._zero_of_unused())

    def _zero_of_unused(self) -> Tensor | None:
        """0, which gives unused parameters a gradient of 0.

        DDP waits for the gradient of every parameter, and the optimiser treats those of every objective alike.
        """
        if not self.objective.unused_parameters:
            return None
        unused = [p for name, p in self.model.named_parameters() if name.startswith(self.objective.unused_parameters)]
        return torch.stack([parameter.reshape(-1)[0].float() for parameter in unused]).sum() * 0.0


class TrainingStep:
    """Gather, encode, loss, backward, clip, step.

    Args:
        model: it is sharded, or replicated, afterwards.
        strategy: how several processes share the model (``distributed.parallelize_model``).
        max_grad_norm: longest gradient; none: not clipped.
    Attributes:
        trained: model and objective, whose parameters the optimiser updates.
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
        objective.before_training(model)
        self.trained = TrainingModule(model, objective)
        self.module = parallelize_model(self.trained, model, strategy)
        self._precision, self._max_norm = precision, math.inf if max_grad_norm is None else max_grad_norm
        saved = model.state_dict().keys()  # without buffers that are computed from the configuration
        self._statistics = [name for name, _ in model.named_buffers() if name in saved]

    def count(self, batches: Sequence[PackedBatch], flags: Sequence[int] = ()) -> GlobalBatchCounts:
        """Counts of a step's micro-batches on the host, and ``flags``, of all ranks, in one message."""
        official = self.model.config.numerics == "official"
        return count_global_batch(self.objective, batches, self.ranks, official, flags)

    def __call__(
        self,
        optimizer: torch.optim.Optimizer,
        batches: Sequence[AnyBatch],
        compute_metrics: bool = False,
        counts: GlobalBatchCounts | None = None,
    ) -> StepReport:
        """Train on this rank's micro-batches. All ranks pass the same number; their sizes may differ.

        Args:
            batches: each is on the device while it is computed, and no longer.
            compute_metrics: also compute metrics that cost time.
            counts: of these micro-batches, if the ranks have counted already.
        """
        counts = counts or self.count([each.packed if isinstance(each, HostBatch) else each for each in batches])
        optimizer.zero_grad(set_to_none=True)
        statistics = {name: self.model.get_buffer(name).clone() for name in self._statistics}
        backward = self._backward if len(batches) == 1 else self._accumulate
        with tf32_matmul(self.model.device, self._precision):
            losses, metrics = backward(batches, counts, compute_metrics)
        average_unsharded_gradients(self.module)
        norm = gradient_norm(self.trained.parameters())
        clip_gradients(self.trained.parameters(), self._max_norm, norm)
        # The norm is enough: only the authors' mean over no pairs is NaN without a NaN gradient.
        finite = torch.isfinite(norm).float()
        # fused kernels check this themselves, so the host does not wait
        optimizer.found_inf = 1 - finite  # type: ignore[attr-defined]
        optimizer.step()
        for name, before in statistics.items():  # the forward pass has changed them
            buffer = self.model.get_buffer(name)
            buffer.copy_(torch.where(finite.bool(), buffer, before))
        self.model.clamp_logit_scale_()
        losses = {name: loss.detach() / self.ranks.size for name, loss in losses.items()}
        return StepReport(losses, metrics, norm, finite)

    def _backward(
        self, batches: Sequence[AnyBatch], counts: GlobalBatchCounts, compute_metrics: bool
    ) -> LossesAndMetrics:
        """Gradients of one batch per rank."""

        def gather(own: NegativeCandidates) -> NegativeCandidates:
            return NegativeCandidates.concatenate([own], counts.max_text_length).all_gather(counts.pairs)

        terms = self._forward(batches[0], GlobalBatch(gather, compute_metrics))
        losses, metrics = _scaled_losses(terms, counts), dict(terms.losses.metrics)
        if (pairs := terms.encoded.pairs) is not None:
            contrastive = self._contrastive(pairs, self.model.logit_scale, counts)
            losses[CONTRASTIVE], metrics[ACCURACY] = contrastive.loss, _accuracy(contrastive, pairs)
        _total_loss(losses, terms.unused).backward()
        return losses, metrics

    def _accumulate(
        self, batches: Sequence[AnyBatch], counts: GlobalBatchCounts, compute_metrics: bool
    ) -> LossesAndMetrics:
        """Gradients of several micro-batches per rank, by gradient caching."""
        cached = self._cache_gradients(batches, counts)
        losses, metrics = dict(cached.losses), dict(cached.metrics)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with no_sync(self.module, skip=not last):
                terms = self._forward(batch, GlobalBatch(cached.gather, compute_metrics))
                own = _scaled_losses(terms, counts)
                parts = own | cached.surrogate_loss(terms.encoded.pairs, number)
                if last and (pairs := terms.encoded.pairs) is not None:
                    parts |= cached.scalar_surrogate_loss(self.model.logit_scale, pairs.logit_bias)
                _total_loss(parts, terms.unused).backward()
            for name, loss in own.items():
                losses[name] = losses.get(name, 0.0) + loss.detach()
            for name, metric in terms.losses.metrics.items():
                before = metrics.get(name)
                if before is not None:
                    metric = MeanMetric(before.total + metric.total, before.count + metric.count)
                metrics[name] = metric
        return losses, metrics

    def _cache_gradients(self, batches: Sequence[AnyBatch], counts: GlobalBatchCounts) -> _CachedGradients:
        if not counts.pairs:
            return _CachedGradients()
        pairs, candidates = [], []
        for batch in batches:  # the activations of each are freed: those of all may not fit
            with torch.no_grad(), autocast(self.model.device, self._precision):
                encoded: EncodedBatch = self.module(batch.to(self.model.device))
            pairs += [] if encoded.pairs is None else [encoded.pairs]
            candidates += [] if encoded.candidates is None else [encoded.candidates]
            del encoded
        joined = ContrastivePairs.concatenate(pairs)
        image, text = joined.image_features.requires_grad_(), joined.text_features.requires_grad_()
        scale = self.model.logit_scale.detach().requires_grad_()
        bias = None if joined.logit_bias is None else joined.logit_bias.detach().requires_grad_()
        all_pairs = replace(joined, logit_bias=bias)
        contrastive = self._contrastive(all_pairs, scale, counts)
        by_image, by_text, *by_scalar = torch.autograd.grad(
            contrastive.loss, (image, text, scale, *([] if bias is None else [bias]))
        )
        sizes = [len(part.image_features) for part in pairs]
        gathered = None
        if candidates:
            gathered = NegativeCandidates.concatenate(candidates, counts.max_text_length).all_gather(counts.pairs)
        return _CachedGradients(
            losses={CONTRASTIVE: contrastive.loss.detach()},
            metrics={ACCURACY: _accuracy(contrastive, all_pairs)},
            by_image=by_image.split(sizes),
            by_text=by_text.split(sizes),
            by_scalar=by_scalar,
            candidates=gathered,
        )

    def _forward(self, batch: AnyBatch, global_batch: GlobalBatch) -> LossTerms:
        with autocast(self.model.device, self._precision):
            terms: LossTerms = self.module(batch.to(self.model.device), global_batch)
        return terms

    def _contrastive(self, pairs: ContrastivePairs, logit_scale: Tensor, counts: GlobalBatchCounts) -> ContrastiveSums:
        sums = pairs.loss(logit_scale, counts.pairs)
        return ContrastiveSums(sums.loss * (pairs.weight * counts.scales[CONTRASTIVE]), sums.correct)


@dataclass(frozen=True)
class _CachedGradients:
    """Contrastive loss of the global batch, its gradients by micro-batch, and the global candidates for negatives.

    Empty for an objective without a contrastive loss.
    """

    losses: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, MeanMetric] = field(default_factory=dict)
    by_image: Sequence[Tensor] = ()
    by_text: Sequence[Tensor] = ()
    by_scalar: Sequence[Tensor] = ()
    candidates: NegativeCandidates | None = None

    def gather(self, own: NegativeCandidates) -> NegativeCandidates:
        assert self.candidates is not None
        return self.candidates

    def surrogate_loss(self, pairs: ContrastivePairs | None, number: int) -> dict[str, Tensor]:
        """A scalar whose gradient with respect to the features is the cached one."""
        if pairs is None:
            return {}
        image = (pairs.image_features * self.by_image[number]).sum()
        return {"surrogate": image + (pairs.text_features * self.by_text[number]).sum()}

    def scalar_surrogate_loss(self, logit_scale: Tensor, logit_bias: Tensor | None) -> dict[str, Tensor]:
        """The same for the temperature and the bias."""
        scalars = [logit_scale] if logit_bias is None else [logit_scale, logit_bias]
        products = [value * gradient for value, gradient in zip(scalars, self.by_scalar, strict=False)]
        return {"scalar_surrogate": torch.stack(products).sum()} if products else {}


@dataclass(frozen=True)
class GlobalBatchCounts:
    """Counts of a step over all ranks and micro-batches, known on the host before it begins.

    Attributes:
        scales: by loss name, the factor of its sum over this rank's items: the average over ranks, which DDP and FSDP
            make of gradients, is then the mean over all items.
        pairs: contrastive pairs of each rank, all its micro-batches together.
        max_text_length: columns of the longest candidate text.
        flags: what each rank sent along.
    """

    scales: Mapping[str, float]
    pairs: Sequence[int]
    max_text_length: int
    flags: Sequence[Sequence[int]] = ()


def count_global_batch(
    objective: Objective,
    batches: Sequence[PackedBatch],
    ranks: RankGroup,
    official: bool,
    flags: Sequence[int] = (),
) -> GlobalBatchCounts:
    """Count the items of all ranks; ``flags`` go along in the same message.

    In ``official`` numerics every rank takes the mean over its own items, and the average of these means is biased
    towards ranks with few (lcl-spec defect 20); a mean over nothing is NaN there, and 0 otherwise.
    """
    own: dict[str, int] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            own[name] = own.get(name, 0) + count
    names = sorted(own)
    longest = max(objective.max_text_length(batch) for batch in batches)
    rows = ranks.all_gather_ints([*(own[name] for name in names), longest, *flags])
    *table, lengths = list(zip(*rows, strict=True))[: len(names) + 1]
    if official:
        scales = {name: 1 / own[name] if own[name] else float("nan") for name in names}
    else:
        scales = {name: ranks.size / max(sum(counts), 1) for name, counts in zip(names, table, strict=True)}
    pairs = table[names.index(CONTRASTIVE)] if CONTRASTIVE in own else []
    return GlobalBatchCounts(scales, pairs, max(lengths), [row[len(names) + 1 :] for row in rows])


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


def _scaled_losses(terms: LossTerms, counts: GlobalBatchCounts) -> dict[str, Tensor]:
    return {name: term.total * (term.weight * counts.scales[name]) for name, term in terms.losses.sums.items()}


def _total_loss(losses: Mapping[str, Tensor], unused: Tensor | None) -> Tensor:
    parts = [*losses.values(), *([] if unused is None else [unused])]
    return torch.stack(parts).sum()


def _accuracy(sums: ContrastiveSums, pairs: ContrastivePairs) -> MeanMetric:
    return MeanMetric(sums.correct, torch.full_like(sums.correct, len(pairs.image_features)))
