"""Attentive probe: attentive pooling of patch features and a linear layer (paper, transfer head (a)).

N patches of width W an image, h heads of width d = W / h, C classes, B images a batch, Q test images. The probe is
trained on frozen features or together with a copy of the encoder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.evaluation.features import Heartbeat
from lcl_core.evaluation.heads.training import (
    FeatureSource,
    ImageBatchSource,
    choose,
    count_steps,
    search_candidates,
    train_head,
)
from lcl_core.evaluation.metrics import Ints, class_ranks
from lcl_core.evaluation.results import loss_curve
from lcl_core.evaluation.tasks.base import EvalContext, EvalImage, Holdout, LabeledImages, SplitImages
from lcl_core.specs.evaluate import ProbeSpec, Transfer

TOP_K = 5
_HEAD_WIDTH = 64


class AttentiveProbe(nn.Module):
    """Layer norm → cross-attention of one learned query → output projection → layer norm → linear.

    One query makes attention cheap: q·(K x) = (Kᵀ q)·x, and mixing before projecting equals projecting before mixing,
    so keys and values of the N patches are never formed (the same function, N times less work). The input norm's scale
    and shift would fold into K and V, so it has none.
    """

    undecayed = ("query",)

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        heads = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else 1
        self.query = nn.Parameter(torch.empty(heads, width // heads))
        self.key = nn.Parameter(torch.empty(heads, width // heads, width))
        self.value = nn.Parameter(torch.empty(heads, width // heads, width))
        self.out = skip_init(nn.Linear, width, width)
        self.norm = nn.LayerNorm(width)
        self.head = skip_init(nn.Linear, width, classes)
        with torch.no_grad():
            self.query.normal_(0, 1, generator=generator)
            for weight in (self.key, self.value, self.out.weight):
                weight.normal_(0, width**-0.5, generator=generator)
            self.head.weight.normal_(0, 0.01, generator=generator)
            self.out.bias.zero_()
            self.head.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, W] → logits [B, C]."""
        x = F.layer_norm(patches, patches.shape[-1:])
        keyed_query = torch.einsum("hd,hdw->wh", self.query, self.key) / math.sqrt(self.query.shape[1])
        weights = (x @ keyed_query).softmax(dim=1)
        mixed = weights.transpose(1, 2) @ x  # [B, h, W]
        values = torch.einsum("bhw,hdw->bhd", mixed, self.value).flatten(1)
        return self.head(self.norm(self.out(values)))


@dataclass(frozen=True)
class ClassPredictions:
    """Predictions for Q images.

    Attributes:
        rank: [Q] of the true class; ties count against it.
        top: [Q, ≤TOP_K] classes, the likeliest first.
        probability: [Q] of the true class.
    """

    rank: Ints
    top: Ints
    probability: NDArray[np.float32]


@torch.inference_mode()
def collect_predictions(
    logits: Iterable[Tensor],
    classes: Ints,
    *,
    field: str,
    probabilities: Callable[[Tensor], Tensor] = partial(torch.softmax, dim=1),
) -> ClassPredictions:
    """Ranks, top classes and probabilities from logits, or from other scores.

    Args:
        logits: parts [B, C], Q rows in all, in the order of ``classes``; computed lazily, without gradients.
        classes: [Q] the true classes.
        probabilities: scores [B, C] → probabilities [B, C].
    """
    ranks, tops, shares = [], [], []
    done = 0
    for part in logits:
        scores = part.float().cpu()
        true = classes[done : done + len(scores)]
        done += len(scores)
        if not torch.isfinite(scores).all():
            raise UserError(f"the head gives NaN; lower {field}.lr", code="diverged", field=f"{field}.lr")
        ranks.append(class_ranks(scores.numpy(), true))
        tops.append(scores.topk(min(TOP_K, scores.shape[1])).indices.numpy())
        shares.append(probabilities(scores).gather(1, torch.from_numpy(true)[:, None])[:, 0].numpy())
    return ClassPredictions(np.concatenate(ranks), np.concatenate(tops), np.concatenate(shares))


def prediction_samples(
    images: list[EvalImage],
    label: str,
    classes: tuple[str, ...],
    test: LabeledImages,
    predictions: ClassPredictions,
) -> Iterator[dict[str, Any]]:
    """The predictions of the classes of a label as they are stored."""
    for number, (row, true) in enumerate(zip(test.rows, test.classes, strict=True)):
        yield {
            "query": images[row].name,
            **images[row].group(label),
            "label": classes[true],
            "rank": int(predictions.rank[number]),
            "right": 1,
            "top": [classes[each] for each in predictions.top[number]],
            "probability": round(float(predictions.probability[number]), 5),
        }


@dataclass(frozen=True)
class FittedClassifier:
    """A trained probe with its feature source.

    Attributes:
        losses: of each step.
        field: of the evaluation's spec, for messages.
    """

    source: FeatureSource
    probe: AttentiveProbe
    losses: list[float]
    field: str


@torch.inference_mode()
def predict_with_each(
    classifiers: Sequence[FittedClassifier],
    batches: ImageBatchSource,
    test: LabeledImages,
    heartbeat: Heartbeat = no_progress,
) -> list[ClassPredictions]:
    """Predictions of each classifier for the images ``test`` of ``batches``, which are encoded once.

    Args:
        classifiers: on the features of ``batches``.
    """
    parts: list[list[ClassPredictions]] = [[] for _ in classifiers]
    done = 0
    for patches in batches.test_batches(test.rows):
        classes = test.classes[done : done + len(patches)]
        done += len(patches)
        for own, classifier in zip(parts, classifiers, strict=True):
            own.append(collect_predictions([classifier.probe(patches)], classes, field=classifier.field))
        heartbeat()
    return [
        ClassPredictions(
            *(np.concatenate([getattr(part, name) for part in own]) for name in ("rank", "top", "probability"))
        )
        for own in parts
    ]


def fit_probe(
    source: FeatureSource,
    batches: ImageBatchSource,
    train: LabeledImages,
    classes: int,
    spec: ProbeSpec,
    *,
    seed: int,
    field: str,
    heartbeat: Heartbeat = no_progress,
) -> FittedClassifier:
    """Cross-entropy over ``classes`` on the images ``train`` of ``batches``; deterministic by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    probe = AttentiveProbe(source.width, classes, generator).to(source.device)
    targets = torch.from_numpy(train.classes).to(source.device)

    def order(epoch: int) -> Sequence[Tensor]:
        return torch.randperm(len(train), generator=generator).split(spec.batch_size)

    def load(picks: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        return picks, batches.load(train.rows[picks.numpy()], rng)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        picks, loaded = batch
        logits = probe(batches.patches(loaded))
        return F.cross_entropy(logits, targets[picks.to(source.device)], label_smoothing=spec.label_smoothing)

    losses = train_head(
        probe, order, load, loss, spec, steps=count_steps(spec, len(train)), seed=seed, field=field,
        threads=batches.threads, encoder=source.trained_encoder, precision=source.precision, heartbeat=heartbeat,
    )  # fmt: skip
    return FittedClassifier(source, probe, losses, field)


@dataclass(frozen=True)
class ProbeTraining:
    """Fits of a probe for one encoder, one protocol and one label key.

    Attributes:
        images: to train on.
        classes: their number.
        field: of the evaluation's spec that holds the hyper-parameters.
        about: names the fit in artifacts: task, variant.
    """

    context: EvalContext
    transfer: Transfer
    images: SplitImages
    classes: int
    field: str
    about: dict[str, Any]

    def fit(self, spec: ProbeSpec, train: LabeledImages, *, seed: int) -> FittedClassifier:
        """A new probe, and in full transfer a new copy of the encoder."""
        source = FeatureSource(self.context, self.transfer, spec.augmentation)
        return fit_probe(
            source, source.batches(self.images), train, self.classes, spec, seed=seed, field=self.field,
            heartbeat=self.context.progress.heartbeat,
        )  # fmt: skip

    def predict(
        self, classifiers: Sequence[FittedClassifier], images: SplitImages, test: LabeledImages
    ) -> list[ClassPredictions]:
        """Predictions of fits on one encoder for the images ``test`` of ``images``, which are encoded once."""
        batches = classifiers[0].source.batches(images)
        return predict_with_each(classifiers, batches, test, self.context.progress.heartbeat)

    def choose(self, spec: ProbeSpec, holdout: Holdout[LabeledImages] | None, *, seed: int) -> ProbeSpec:
        """The protocol's spec with the best hyper-parameters on the held-out images; the search is logged."""

        def attempt(candidate: ProbeSpec, holdout: Holdout[LabeledImages]) -> float:
            classifier = self.fit(candidate, holdout.train, seed=seed)
            (predictions,) = self.predict([classifier], holdout.source, holdout.test)
            return float(np.mean(predictions.rank == 1))

        candidates = search_candidates(spec.for_protocol(self.transfer))
        return choose(self.context, candidates, attempt, holdout, self._labels, field=self.field, metric="acc@1")

    def log_curve(self, classifier: FittedClassifier, **more: Any) -> None:
        """Add the loss curve to the run's curves."""
        self.context.curves.append({**self._labels, **more, **loss_curve(classifier.losses)})

    @property
    def _labels(self) -> dict[str, Any]:
        return {**self.about, "transfer": self.transfer, "encoder": self.context.encoder.role}
