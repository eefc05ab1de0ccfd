"""Training of heads: feature sources, the training loop, grid search.

Frozen transfer trains a head on cached features; full transfer trains the head and a copy of the encoder (paper,
transfer protocols). The loop is AdamW with linear warm-up, cosine decay, clipping, autocast and layer-wise rates.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcl_core.common.device import autocast
from lcl_core.common.errors import UserError
from lcl_core.common.threads import prefetch_map
from lcl_core.encoders.base import ImageEncoder
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.tasks.base import EvalContext, Holdout, SplitImages
from lcl_core.specs.data import AugmentationSpec
from lcl_core.specs.evaluate import TuningSpec

S = TypeVar("S", bound=TuningSpec)
T = TypeVar("T")

STEP_COST = {"frozen": 0.05, "full": 3.0}  # rough cost of training a head on an image once, in embedded images


# ---- feature sources


class ImageBatchSource(ABC):
    """The images of a split as patch features, in two steps: loading, which threads may do ahead, and encoding.

    Attributes:
        batch_size: images a batch at test time.
        threads: that load ahead; None: as many as there are cores.
    """

    batch_size: int
    threads: int | None = None

    @abstractmethod
    def load(self, rows: Ints, rng: random.Random | None = None) -> Tensor:
        """Inputs of the images at ``rows`` on the CPU; with ``rng`` augmented for training."""

    @abstractmethod
    def patches(self, loaded: Tensor) -> Tensor:
        """Patch features [B, N, W] of loaded inputs, on the head's device."""

    def test_batches(self, rows: Ints) -> Iterator[Tensor]:
        """Patch features of the images at ``rows``, batch by batch."""
        parts = (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))
        return (self.patches(loaded) for loaded in prefetch_map(self.load, parts, threads=self.threads))


class FeatureSource(ABC):
    """One encoder in one protocol.

    Attributes:
        width: W of the patch features.
        device: of the heads.
        trained_encoder: the copy of the encoder that is trained along; None where it is frozen.
        precision: of training; None: the spec's.
    """

    width: int
    device: torch.device
    trained_encoder: ImageEncoder | None
    precision: Literal["fp32"] | None

    @abstractmethod
    def batches(self, split: SplitImages) -> ImageBatchSource:
        """The images of a split."""


class FrozenFeatures(FeatureSource):
    """Cached half-precision features; heads on them are trained in fp32.

    Features that would fill most of the cache are computed each time; heads see the same numbers.
    """

    trained_encoder = None
    precision = "fp32"

    def __init__(self, context: EvalContext, encoder: EvaluatedEncoder, augmentation: AugmentationSpec) -> None:
        self.width, self.device = encoder.model.width, encoder.model.device
        self._context, self._encoder = context, encoder

    def batches(self, split: SplitImages) -> ImageBatchSource:
        patches = self._context.get_patch_features(self._encoder, split)
        if patches is not None:
            return CachedFeatureBatches(patches, self.device)
        return FrozenImageBatches(self._encoder.model, split, AugmentationSpec())


class FinetunedEncoder(FeatureSource):
    """A copy of the encoder that is trained on augmented images; the original is unchanged."""

    precision = None

    def __init__(self, context: EvalContext, encoder: EvaluatedEncoder, augmentation: AugmentationSpec) -> None:
        self.trained_encoder: ImageEncoder = encoder.model.copy()
        self.width, self.device = self.trained_encoder.width, self.trained_encoder.device
        self._augmentation = augmentation

    def batches(self, split: SplitImages) -> ImageBatchSource:
        return ImageBatches(self.trained_encoder, split, self._augmentation)


FEATURE_SOURCES: dict[str, type[FrozenFeatures] | type[FinetunedEncoder]] = {
    "frozen": FrozenFeatures,
    "full": FinetunedEncoder,
}


class CachedFeatureBatches(ImageBatchSource):
    """Rows of a memory-mapped array of patch features [n, N, W]."""

    batch_size = 1024
    threads = 0  # copying numbers is not worth a thread

    def __init__(self, patches: NDArray[np.float16], device: torch.device) -> None:
        self._patches, self._device = patches, device

    def load(self, rows: Ints, rng: random.Random | None = None) -> Tensor:
        return torch.from_numpy(self._patches[rows])

    def patches(self, loaded: Tensor) -> Tensor:
        return loaded.to(self._device).float()


class ImageBatches(ImageBatchSource):
    """Images of a corpus, encoded with the encoder's current weights."""

    batch_size = 64

    def __init__(self, encoder: ImageEncoder, split: SplitImages, augmentation: AugmentationSpec) -> None:
        self._encoder, self._split, self._augmentation = encoder, split, augmentation

    def load(self, rows: Ints, rng: random.Random | None = None) -> Tensor:
        images = [self._split.corpus.read_image(self._split.images[row].name) for row in rows]
        if rng is None:
            return self._encoder.preprocess(images)
        return self._encoder.training_pixels(images, self._augmentation, rng)

    def patches(self, loaded: Tensor) -> Tensor:
        return self._encoder.patches(loaded.to(self._encoder.device))


class FrozenImageBatches(ImageBatches):
    """Frozen features without a cache: never augmented, rounded as cached ones are."""

    def load(self, rows: Ints, rng: random.Random | None = None) -> Tensor:
        return super().load(rows)

    @torch.no_grad()
    def patches(self, loaded: Tensor) -> Tensor:
        return super().patches(loaded).half().float()


# ---- training loop


EpochBatches = Callable[[int], Iterator[Any]]  # the batches of one epoch, given its number from 0


def train_head(
    head: nn.Module,
    batches: EpochBatches,
    loss: Callable[[Any], Tensor],
    spec: TuningSpec,
    *,
    steps: int,
    field: str,
    encoder: ImageEncoder | None = None,
    extra: Sequence[tuple[nn.Module, float]] = (),
    precision: str | None = None,
    on_step: Callable[[Any], None] = lambda batch: None,
) -> list[float]:
    """Train ``head``, and ``encoder`` where one is given, and return the loss of each step.

    Everything random is in ``batches``, so equal batches give equal weights. Modules are left in evaluation mode.

    Args:
        loss: a batch → scalar; called under autocast.
        encoder: full transfer: a copy of the encoder; its layers learn at :func:`layer_rates`.
        extra: further modules, each with its own peak rate.
        precision: replaces the spec's.
    """
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
    for batch in _batches_of_epochs(batches, steps):
        with autocast(device, precision or spec.precision):  # type: ignore[arg-type]
            batch_loss = loss(batch)
        losses.append(float(batch_loss.detach()))
        if not math.isfinite(losses[-1]):
            raise UserError(
                f"the loss is no longer a number; lower {field}.lr, or set {field}.max_grad_norm",
                code="tuning_diverged", field=f"{field}.lr",
            )  # fmt: skip
        optimizer.zero_grad()
        batch_loss.backward()
        if spec.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)
        optimizer.step()
        schedule.step()
        on_step(batch)
    for each in modules:
        each.eval()
    return losses


def count_steps(spec: TuningSpec, examples: int) -> int:
    """Optimiser steps: the spec's, or those of its epochs over ``examples``."""
    return spec.steps or spec.epochs * math.ceil(examples / spec.batch_size)


def count_examples(spec: TuningSpec, examples: int) -> int:
    """Examples that all trials of a grid search and the final training process, for progress."""
    trials = 1 + math.prod(map(len, spec.search.values())) if spec.search else 1
    return trials * (spec.steps * spec.batch_size if spec.steps else spec.epochs * examples)


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak rate at 0-based ``step``: linear over the share ``warmup``, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and the names in the module's attribute ``undecayed`` do not."""
    spared = getattr(module, "undecayed", ())
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    decays = [parameter.ndim >= 2 and name not in spared for name, parameter in named]
    return _groups([parameter for _, parameter in named], decays, lr, weight_decay)


def encoder_groups(encoder: ImageEncoder, spec: TuningSpec) -> list[dict[str, Any]]:
    """The encoder's layers, each at its own rate."""
    layers = encoder.layers()
    groups: list[dict[str, Any]] = []
    for parameters, rate in zip(layers, layer_rates(len(layers), spec.encoder_lr, spec.layer_decay), strict=True):
        groups += _groups(parameters, [parameter.ndim >= 2 for parameter in parameters], rate, spec.weight_decay)
    return groups


def layer_rates(layers: int, lr: float, decay: float) -> list[float]:
    """Peak rate of each layer, the input's first: ``lr`` for the last, times ``decay`` for each layer below."""
    return [lr * decay ** (layers - 1 - depth) for depth in range(layers)]


def _groups(
    parameters: Sequence[nn.Parameter], decays: Sequence[bool], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    matrices, others = (
        [parameter for parameter, decay in zip(parameters, decays, strict=True) if decay == decayed]
        for decayed in (True, False)
    )
    return [
        {"params": part, "lr": lr, "weight_decay": decay}
        for part, decay in ((matrices, weight_decay), (others, 0.0))
        if part
    ]


def _batches_of_epochs(batches: EpochBatches, steps: int) -> Iterator[Any]:
    """``steps`` batches, epoch after epoch."""
    done = epoch = 0
    while done < steps:
        for batch in batches(epoch):
            yield batch
            done += 1
            if done == steps:
                return
        epoch += 1


# ---- grid search


def choose(
    context: EvalContext,
    spec: S,
    attempt: Callable[[S, Holdout[T]], float],
    holdout: Holdout[T] | None,
    labels: Mapping[str, Any],
    *,
    field: str,
    metric: str,
) -> S:
    """The spec with the best hyper-parameters on the held-out images; the search is logged under ``labels``.

    ``attempt``: trains by a spec and scores on the held-out images, the higher the better.
    """
    if holdout is None or not spec.search:
        return spec
    context.progress.enter(f"{labels['encoder']} encoder: choosing for {labels['transfer']} transfer")
    chosen, tried = grid_search(spec, lambda candidate: attempt(candidate, holdout), field=field)
    log_search(context, holdout, labels, metric, tried, {name: getattr(chosen, name) for name in spec.search})
    return chosen


def log_search(
    context: EvalContext,
    holdout: Holdout[Any],
    labels: Mapping[str, Any],
    metric: str,
    tried: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Any],
) -> None:
    held_out = {"split": holdout.source.split, "pictures": len(holdout.test), "of": holdout.split_size}
    context.choices.add({**labels, "held_out": held_out, "metric": metric, "tried": tried, "chosen": chosen})


def grid_search(spec: S, attempt: Callable[[S], float], *, field: str) -> tuple[S, list[dict[str, Any]]]:
    """The spec with the values that ``attempt`` scores highest, of equals the first; and all values with their scores.

    Args:
        attempt: trains by a spec and scores on held-out images, the higher the better; a training that diverges has no
            score.
    """
    names = list(spec.search)
    candidates = [
        spec.with_values(**dict(zip(names, values, strict=True))) for values in product(*spec.search.values())
    ]
    scores: list[float | None] = []
    for candidate in candidates:
        try:
            scores.append(attempt(candidate))
        except UserError as error:
            if error.code != "tuning_diverged":
                raise
            scores.append(None)
    ranked = [-math.inf if score is None else score for score in scores]
    best = max(range(len(candidates)), key=ranked.__getitem__)
    if scores[best] is None:
        raise UserError(
            f"every combination of {field}.search diverges; lower the rates", code="tuning_diverged",
            field=f"{field}.search",
        )  # fmt: skip
    tried = [
        {**{name: getattr(each, name) for name in names}, "score": score}
        for each, score in zip(candidates, scores, strict=True)
    ]
    return candidates[best], tried
