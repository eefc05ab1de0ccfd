"""Training of heads: feature sources, prefetching, the training loop, grid search.

Frozen transfer trains the head on cached features; full transfer trains the head and a copy of the encoder (paper,
transfer protocols). The loop is AdamW with linear warm-up, cosine decay, clipping, autocast and layer-wise rates.
"""

from __future__ import annotations

import math
import os
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcl_core.common.device import autocast
from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.encoders.base import ImageEncoder
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.specs.evaluate import TuningSpec
from lcl_core.specs.pretrain import AugmentationSpec

if TYPE_CHECKING:
    from lcl_core.evaluation.features import EvaluatedEncoder
    from lcl_core.evaluation.tasks.base import EvalContext


T = TypeVar("T")
R = TypeVar("R")


def prefetch_map(work: Callable[[T], R], items: Iterable[T], *, threads: int | None = None) -> Iterator[R]:
    """``map(work, items)``, in order, a few items ahead of what was taken; an error comes at its item's turn.

    Args:
        threads: none: one a core, at most 8; 0: nothing is done ahead.
    """
    if threads == 0:
        yield from map(work, items)
        return
    count = threads or min(8, os.cpu_count() or 1)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


S = TypeVar("S", bound=TuningSpec)


@dataclass(frozen=True)
class GridPoint:
    """One combination of values, and what it reached; none if its training diverged."""

    values: dict[str, Any]
    score: float | None


@dataclass(frozen=True)
class GridSearchResult:
    """What was tried, in the order of the spec, and the spec's place of the best; of equals the first."""

    trials: list[GridPoint]
    best: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values: ``tried`` and ``chosen``."""
        tried = [{**trial.values, "score": trial.score} for trial in self.trials]
        return {"tried": tried, "chosen": self.trials[self.best].values}


def grid_search(spec: S, attempt: Callable[[S], float], *, field: str) -> tuple[S, GridSearchResult | None]:
    """The spec with the values that ``attempt`` scores highest; the same spec where there is nothing to search.

    Args:
        attempt: trains by a spec and scores on held-out pictures, the higher the better.
        field: of the evaluation's spec that holds ``spec``, for the message.

    Raises:
        UserError: ``tuning_diverged`` when all of them do.
    """
    if not spec.search:
        return spec, None
    names = list(spec.search)
    candidates = [
        spec.with_values(**dict(zip(names, values, strict=True))) for values in product(*spec.search.values())
    ]
    trials = [
        GridPoint({name: getattr(each, name) for name in names}, _score_or_none(attempt, each)) for each in candidates
    ]
    reached = [-float("inf") if trial.score is None else trial.score for trial in trials]
    best = max(range(len(trials)), key=reached.__getitem__)
    if trials[best].score is None:
        raise UserError(
            f"every combination of {field}.search diverges; lower the rates", code="tuning_diverged",
            field=f"{field}.search",
        )  # fmt: skip
    return candidates[best], GridSearchResult(trials, best)


def _score_or_none(attempt: Callable[[S], float], candidate: S) -> float | None:
    try:
        return attempt(candidate)
    except UserError as error:
        if error.code != "tuning_diverged":
            raise
        return None


_HALF_BYTES = 2
_MAX_CACHE_SHARE = 0.5  # of the cache that the features of one split may take


class ImageBatchSource(ABC):
    """The pictures of a split as a head sees them, in two steps: loading, which threads may do ahead, and looking.

    Attributes:
        at_once: how many to ask about at a time.
        threads: that load ahead; none: as many as there are cores.
    """

    at_once: int
    threads: int | None = None

    @abstractmethod
    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        """What is needed of the pictures ``rows``, on the CPU; with ``draw`` as they are learnt from."""

    @abstractmethod
    def tokens(self, loaded: Tensor) -> Tensor:
        """Patch tokens [B, N, W] of what was loaded, on the device of the head."""


class FeatureSource(ABC):
    """One encoder in one protocol.

    Attributes:
        width: W of the patch tokens.
        device: where heads are to be trained.
        tower: the encoder that learns along, a copy; none where it is frozen.
        precision: what heads are trained in; none: what their spec says.
    """

    width: int
    device: torch.device
    tower: ImageEncoder | None
    precision: Literal["fp32"] | None

    @abstractmethod
    def view(self, split: str, pictures: list[EvalImage], corpus: Corpus | None = None) -> ImageBatchSource:
        """The pictures of a split; of another corpus than the room's where one is given."""


class FrozenFeatures(FeatureSource):
    """Cached features, in half precision; heads on them are cheap and are trained in fp32.

    Features that would crowd everything else out of the cache (patches of a million pictures) are computed each time
    they are needed; heads see the same numbers.
    """

    tower = None
    precision = "fp32"

    def __init__(self, room: EvalContext, encoder: EvaluatedEncoder, augmentation: AugmentationSpec) -> None:
        self.width, self.device = encoder.tower.width, encoder.tower.device
        self._room, self._encoder = room, encoder

    def view(self, split: str, pictures: list[EvalImage], corpus: Corpus | None = None) -> ImageBatchSource:
        tower = self._encoder.tower
        if len(pictures) * tower.tokens * tower.width * _HALF_BYTES > self._room.cache.max_bytes * _MAX_CACHE_SHARE:
            names = [picture.image for picture in pictures]
            return FrozenImageBatches(tower, corpus or self._room.corpus, names)
        patches = self._room.look(self._encoder, split, pictures, corpus).patches
        assert patches is not None, "a task that stands on frozen features wants patches"
        return CachedFeatureBatches(patches, self.device)


class FinetunedEncoder(FeatureSource):
    """A copy of the encoder that learns from augmented pictures; the original stays as it is."""

    precision = None

    def __init__(self, room: EvalContext, encoder: EvaluatedEncoder, augmentation: AugmentationSpec) -> None:
        self.tower: ImageEncoder = encoder.tower.copy()
        self.width, self.device = self.tower.width, self.tower.device
        self._corpus, self._augmentation = room.corpus, augmentation

    def view(self, split: str, pictures: list[EvalImage], corpus: Corpus | None = None) -> ImageBatchSource:
        names = [picture.image for picture in pictures]
        return ImageBatches(self.tower, corpus or self._corpus, names, self._augmentation)


class CachedFeatureBatches(ImageBatchSource):
    """Rows of a (memory-mapped) array of patch features [n, N, W]."""

    at_once = 1024
    threads = 0  # a copy of numbers is not worth a thread

    def __init__(self, patches: NDArray[np.float16], device: torch.device) -> None:
        self._patches, self._device = patches, device

    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        return torch.from_numpy(self._patches[rows])

    def tokens(self, loaded: Tensor) -> Tensor:
        return loaded.to(self._device).float()


class ImageBatches(ImageBatchSource):
    """Pictures of a corpus, looked at by an encoder that may have learnt meanwhile."""

    at_once = 64

    def __init__(
        self, tower: ImageEncoder, corpus: Corpus, names: Sequence[str], augmentation: AugmentationSpec
    ) -> None:
        self._tower, self._corpus, self._names, self._augmentation = tower, corpus, names, augmentation

    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        images = [self._corpus.read_image(self._names[row]) for row in rows]
        if draw is None:
            return self._tower.preprocess(images)
        return self._tower.training_pixels(images, self._augmentation, draw)

    def tokens(self, loaded: Tensor) -> Tensor:
        return self._tower.patches(loaded.to(self._tower.device))


class FrozenImageBatches(ImageBatches):
    """Frozen features without a cache: never augmented, rounded as cached ones are."""

    def __init__(self, tower: ImageEncoder, corpus: Corpus, names: Sequence[str]) -> None:
        super().__init__(tower, corpus, names, AugmentationSpec())

    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        return super().load(rows)

    @torch.no_grad()
    def tokens(self, loaded: Tensor) -> Tensor:
        return super().tokens(loaded).half().float()


FEATURE_SOURCES: dict[str, type[FrozenFeatures] | type[FinetunedEncoder]] = {
    "frozen": FrozenFeatures,
    "full": FinetunedEncoder,
}


class EpochBatches(Protocol):
    """Gives the batches of one pass over the examples; called once a pass, with its number from 0."""

    def __call__(self, number: int, /) -> Iterator[Any]: ...


def train_head(
    module: nn.Module,
    batches: EpochBatches,
    loss: Callable[[Any], Tensor],
    spec: TuningSpec,
    *,
    steps: int,
    field: str,
    tower: ImageEncoder | None = None,
    beside: Sequence[tuple[nn.Module, float]] = (),
    precision: str | None = None,
    on_step: Callable[[Any], None] = lambda batch: None,
) -> list[float]:
    """Train ``module``, and the encoder of ``tower`` where one is given; both are left in evaluation mode.

    Everything random is in ``batches``, so equal batches give equal weights.

    Args:
        module: what was added to the encoder; all of its parameters that want gradients are trained.
        batches: gives at least one batch a pass; passes follow each other until ``steps`` are done.
        loss: a batch's loss, a scalar; called under autocast.
        steps: how many; :func:`steps_of` says what a spec asks for.
        field: of the evaluation's spec that holds ``spec``, for messages.
        tower: full transfer: a copy of the encoder; its layers learn at :func:`layer_rates`.
        beside: further modules that learn along, each at its own peak rate.
        precision: in place of the spec's.
        on_step: called with each batch when it is learnt.

    Returns:
        the loss of each step.

    Raises:
        UserError: ``tuning_diverged`` when a loss is no number.
    """
    groups = _all_groups(module, tower, beside, spec)
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps, spec.warmup))
    trained = [parameter for group in groups for parameter in group["params"]]
    device = trained[0].device
    modules = [module, *(each for each, _ in beside), *([] if tower is None else [tower.module])]
    losses = []
    for each in modules:
        each.train()
    for batch in _endless(batches, steps):
        with autocast(device, precision or spec.precision):  # type: ignore[arg-type]
            found = loss(batch)
        losses.append(_check_loss(float(found.detach()), field))
        optimizer.zero_grad()
        found.backward()
        if spec.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)
        optimizer.step()
        schedule.step()
        on_step(batch)
    for each in modules:
        each.eval()
    return losses


def _all_groups(
    module: nn.Module, tower: ImageEncoder | None, beside: Sequence[tuple[nn.Module, float]], spec: TuningSpec
) -> list[dict[str, Any]]:
    groups = parameter_groups(module, spec.lr, spec.weight_decay)
    if tower is not None:
        groups += encoder_groups(tower, spec)
    for each, rate in beside:
        groups += parameter_groups(each, rate, spec.weight_decay)
    return groups


def count_steps(spec: TuningSpec, examples: int) -> int:
    """Optimiser steps: the spec's, or those of its epochs over ``examples``."""
    return spec.steps or spec.epochs * math.ceil(examples / spec.batch_size)


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate in 0-based ``step``: a line up over the share ``warmup``, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and what the module names in its attribute ``undecayed`` do not."""
    spared = getattr(module, "undecayed", ())
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in trained if parameter.ndim < 2 or name in spared]
    decayed = [parameter for name, parameter in trained if parameter.ndim >= 2 and name not in spared]
    return _groups(decayed, plain, lr, weight_decay)


def encoder_groups(tower: ImageEncoder, spec: TuningSpec) -> list[dict[str, Any]]:
    """The encoder's layers, each at its own rate."""
    layers = tower.layers()
    groups: list[dict[str, Any]] = []
    for parameters, rate in zip(layers, layer_rates(len(layers), spec.encoder_lr, spec.layer_decay), strict=True):
        decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
        plain = [parameter for parameter in parameters if parameter.ndim < 2]
        groups += _groups(decayed, plain, rate, spec.weight_decay)
    return groups


def layer_rates(layers: int, lr: float, decay: float) -> list[float]:
    """Peak rate of each layer, the input's first: ``lr`` for the last, and ``decay`` times as much a step down."""
    return [lr * decay ** (layers - 1 - depth) for depth in range(layers)]


def _groups(
    decayed: Sequence[nn.Parameter], plain: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    both = ((decayed, weight_decay), (plain, 0.0))
    return [{"params": list(part), "lr": lr, "weight_decay": decay} for part, decay in both if part]


def _endless(batches: EpochBatches, steps: int) -> Iterator[Any]:
    """Pass after pass, ``steps`` batches in all."""
    done = number = 0
    while done < steps:
        for batch in batches(number):
            yield batch
            done += 1
            if done == steps:
                return
        number += 1


def _check_loss(loss: float, field: str) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is no longer a number; lower {field}.lr, or set {field}.max_grad_norm",
            code="tuning_diverged", field=f"{field}.lr",
        )  # fmt: skip
    return loss
