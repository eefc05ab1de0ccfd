"""Training of heads: feature sources, the training loop, grid search.

Frozen transfer trains a head on cached features; full transfer trains the head and a copy of the encoder (paper,
transfer protocols). The loop is AdamW with linear warm-up, cosine decay, clipping, autocast and layer-wise rates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice, product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lcl_core.common.device import Precision, autocast
from lcl_core.common.errors import UserError
from lcl_core.common.processes import prefetch_map
from lcl_core.encoders.base import ImageEncoder
from lcl_core.evaluation.metrics import Ints
from lcl_core.evaluation.tasks.base import EvalContext, Holdout, SplitImages, T
from lcl_core.specs.data import AugmentationSpec
from lcl_core.specs.evaluate import SearchSpec, TuningSpec

B = TypeVar("B")
C = TypeVar("C")
P = TypeVar("P")
S = TypeVar("S", bound=SearchSpec)


# ---- patch features as batches


class FeatureSource:
    """One encoder in one protocol: ``frozen``, or ``full``, with a copy that is trained on augmented images.

    Frozen features come from the cache, in half precision. Those that would fill most of the cache are computed each
    time; heads see the same numbers.

    Attributes:
        width: W of the patch features.
        device: of the heads.
        trained_encoder: the copy of the encoder that is trained along; None where it is frozen.
        precision: of heads: fp32 on frozen features.
    """

    def __init__(self, context: EvalContext, transfer: str, augmentation: AugmentationSpec) -> None:
        self.context, self.augmentation = context, augmentation
        self.model = context.encoder.model
        self.width, self.device = self.model.width, self.model.device
        self.trained_encoder: ImageEncoder | None = self.model.copy() if transfer == "full" else None
        self.precision: Precision = "fp32" if transfer == "frozen" else "auto"

    def batches(self, split: SplitImages) -> ImageBatches:
        """The images of a split."""
        return ImageBatches(self, split)


class ImageBatches:
    """The images of a split as patch features, in two steps: loading, which threads may do ahead, and encoding.

    Attributes:
        batch_size: images a batch at test time.
        threads: that load ahead; None: as many as there are cores. Copying numbers is not worth a thread.
    """

    def __init__(self, source: FeatureSource, split: SplitImages) -> None:
        self.source, self._split = source, split
        self._cached = source.context.get_patch_features(split) if source.trained_encoder is None else None
        self.batch_size = 64 if self._cached is None else 1024
        self.threads: int | None = None if self._cached is None else 0

    def load(self, rows: Ints, rng: random.Random | None = None) -> Tensor:
        """Inputs of the images at ``rows`` on the CPU; with ``rng`` augmented, where the encoder is trained."""
        if self._cached is not None:
            return torch.from_numpy(self._cached[rows])
        images = [self._split.corpus.read_image(self._split.images[row].name) for row in rows]
        if rng is None or self.source.trained_encoder is None:
            return self.source.model.preprocess(images)
        return self.source.trained_encoder.training_pixels(images, self.source.augmentation, rng)

    def patches(self, loaded: Tensor) -> Tensor:
        """Patch features [B, N, W] of loaded inputs, on the head's device; frozen ones as the cache rounds them."""
        loaded = loaded.to(self.source.device)
        if self._cached is not None:
            return loaded.float()
        if self.source.trained_encoder is not None:
            return self.source.trained_encoder.patches(loaded)
        with torch.no_grad():
            return self.source.model.patches(loaded).half().float()

    def test_batches(self, rows: Ints) -> Iterator[Tensor]:
        """Patch features of the images at ``rows``, batch by batch."""
        parts = (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))
        for loaded in prefetch_map(self.load, parts, threads=self.threads):
            yield self.patches(loaded)
            self.source.context.progress.heartbeat()


# ---- training loop


def train_head(
    source: FeatureSource,
    head: nn.Module,
    order: Callable[[int], Sequence[P]],
    load: Callable[[P, random.Random], B],
    loss: Callable[[B], Tensor],
    spec: TuningSpec,
    examples: int,
    field: str,
    *,
    extra: Sequence[tuple[nn.Module, float]] = (),
    precision: Precision = "auto",
    threads: int | None = None,
) -> list[float]:
    """Train ``head``, and in full transfer the source's copy of the encoder, and return the loss of each step.

    Everything random is in ``order`` and ``load``. Modules are left in evaluation mode.

    Args:
        order: what each batch of an epoch holds, given the number of the epoch from 0.
        load: that → a batch; called ahead in ``threads``, with random numbers of its own.
        loss: a batch → scalar; called under autocast.
        examples: in an epoch.
        field: of the spec, for messages.
        extra: further modules, each with its own peak rate.
    """
    encoder, seed = source.trained_encoder, source.context.spec.seed
    steps = spec.steps or spec.epochs * math.ceil(examples / spec.batch_size)
    groups = parameter_groups(head, spec.lr, spec.weight_decay)
    if encoder is not None:
        groups += encoder_groups(encoder, spec)
    for each, rate in extra:
        groups += parameter_groups(each, rate, spec.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps, spec.warmup))
    trained = [parameter for group in groups for parameter in group["params"]]
    device = trained[0].device
    modules = [head, *(each for each, _ in extra), *([] if encoder is None else [encoder.module])]
    losses = []
    for each in modules:
        each.train()

    def batches() -> Iterator[B]:
        for epoch in count():
            jobs = ((picks, random.Random(f"{seed} {epoch} {n}")) for n, picks in enumerate(order(epoch)))  # noqa: S311
            yield from prefetch_map(lambda job: load(*job), jobs, threads=threads)

    for batch in islice(batches(), steps):
        with autocast(device, precision):
            batch_loss = loss(batch)
        losses.append(float(batch_loss.detach()))
        if not math.isfinite(losses[-1]):
            raise UserError(
                f"the loss is no longer a number; lower {field}.lr, or set {field}.max_grad_norm",
                code="diverged", field=f"{field}.lr",
            )  # fmt: skip
        optimizer.zero_grad()
        batch_loss.backward()
        if spec.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)
        optimizer.step()
        schedule.step()
        source.context.progress.heartbeat()
    for each in modules:
        each.eval()
    return losses


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak rate at 0-based ``step``: linear over the share ``warmup``, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and the names in the module's attribute ``undecayed`` do not."""
    spared = getattr(module, "undecayed", ())
    decays = {each: each.ndim >= 2 and name not in spared for name, each in module.named_parameters()}
    return _groups({each: own for each, own in decays.items() if each.requires_grad}, lr, weight_decay)


def encoder_groups(encoder: ImageEncoder, spec: TuningSpec) -> list[dict[str, Any]]:
    """The encoder's layers: ``encoder_lr`` for the last, times ``layer_decay`` for each layer below."""
    return [
        group
        for depth, layer in enumerate(reversed(encoder.layers()))
        for group in _groups(
            {each: each.ndim >= 2 for each in layer}, spec.encoder_lr * spec.layer_decay**depth, spec.weight_decay
        )
    ]


def _groups(decays: dict[nn.Parameter, bool], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    groups = (([each for each, own in decays.items() if own is decay], decay) for decay in (True, False))
    return [{"params": part, "lr": lr, "weight_decay": weight_decay * decay} for part, decay in groups if part]


# ---- search of hyper-parameters

Candidate = tuple[dict[str, Any], C]  # the values that are searched, and what is trained with them


def search_candidates(spec: S) -> list[Candidate[S]]:
    """Every combination of the values in the spec's ``search``; the spec alone where it has none."""
    settings: list[dict[str, Any]] = [
        dict(zip(spec.search, values, strict=True)) for values in product(*spec.search.values())
    ]
    return [(values, spec.with_values(**values)) for values in settings]


def choose(
    context: EvalContext,
    candidates: Sequence[Candidate[C]],
    attempt: Callable[[C, Holdout[T]], float],
    holdout: Holdout[T] | None,
    labels: Mapping[str, Any],
    *,
    field: str,
    metric: str,
) -> C:
    """The candidate with the best score on the held-out images, of equals the first; the search is logged.

    Args:
        attempt: trains and scores on the held-out images, the higher the better; a training that diverges has no score.
        labels: of the entry in the log.
        metric: that is the score.
    """
    if holdout is None or len(candidates) == 1:
        return candidates[0][1]
    context.enter(f"choosing for {labels['transfer']} transfer")
    scores = []
    for _, candidate in candidates:
        try:
            scores.append(attempt(candidate, holdout))
        except UserError as error:
            if error.code != "diverged":
                raise
            scores.append(-math.inf)
    best = max(range(len(candidates)), key=scores.__getitem__)
    if scores[best] == -math.inf:
        raise UserError(
            f"every combination of {field}.search diverges; lower the rates", code="diverged",
            field=f"{field}.search",
        )  # fmt: skip
    tried = [
        {**values, "score": None if score == -math.inf else score}
        for (values, _), score in zip(candidates, scores, strict=True)
    ]
    held_out = {"split": holdout.source.split, "pictures": len(holdout.test), "of": len(holdout.source)}
    context.choices.append(
        {**labels, "held_out": held_out, "metric": metric, "tried": tried, "chosen": candidates[best][0]}
    )
    return candidates[best][1]
