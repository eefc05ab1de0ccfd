"""Attentive probe: attentive pooling of patch features and a linear layer (paper, transfer head (a)).

One learned query attends to the N patch features of width W; the linear layer gives C class logits. The probe is
trained on frozen features or together with a copy of the encoder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lcl_core.common.errors import UserError
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import (
    FEATURE_SOURCES,
    FeatureSource,
    ImageBatchSource,
    count_steps,
    grid_search,
    prefetch_map,
    train_head,
)
from lcl_core.evaluation.metrics.core import class_ranks
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.predictions import loss_curve
from lcl_core.evaluation.tasks.base import EvalContext, EvalImage, Holdout, LabeledImages
from lcl_core.specs.evaluate import Transfer, TuningSpec

_HEAD_WIDTH = 64


class AttentiveProbe(nn.Module):
    """Layer norm → cross-attention of one learned query → output projection → layer norm → linear.

    One query makes attention cheap: q·(K x) = (Kᵀ q)·x, and mixing before projecting equals projecting before
    mixing, so keys and values of the N patches are never formed (exactly the same function, N times less
    work). The input norm's scale and shift would fold into K and V, so it has none.
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
        look = torch.einsum("hd,hdw->wh", self.query, self.key) / math.sqrt(self.query.shape[1])
        weights = (x @ look).softmax(dim=1)
        mixed = weights.transpose(1, 2) @ x  # [B, h, W]
        values = torch.einsum("bhw,hdw->bhd", mixed, self.value).flatten(1)
        return self.head(self.norm(self.out(values)))


TOP_K = 5


@dataclass(frozen=True)
class ClassPredictions:
    """Of Q pictures.

    Attributes:
        rank: [Q] of the true class; ties count against us.
        top: [Q, ≤TOP] classes, the likeliest first.
        probability: [Q] that the classifier gives to the true class.
    """

    rank: Ints
    top: Ints
    probability: NDArray[np.float32]


@torch.inference_mode()
def collect_predictions(logits: Iterable[Tensor], classes: Ints, *, field: str) -> ClassPredictions:
    """Read the answers about Q pictures.

    Args:
        logits: some [B, C] at a time, Q in all, in the order of ``classes``; made without gradients.
        classes: [Q] the true classes.
        field: of the spec, for the message when the answers are no numbers.

    Raises:
        UserError: ``tuning_diverged``.
    """
    ranks, tops, probabilities = [], [], []
    done = 0
    for part in logits:
        found = part.float().cpu()
        true = classes[done : done + len(found)]
        done += len(found)
        if not torch.isfinite(found).all():
            raise UserError(f"the head gives NaN; lower {field}.lr", code="tuning_diverged", field=f"{field}.lr")
        ranks.append(class_ranks(found.numpy(), true))
        tops.append(found.topk(min(TOP_K, found.shape[1])).indices.numpy())
        probabilities.append(found.softmax(dim=1).gather(1, torch.from_numpy(true)[:, None])[:, 0].numpy())
    return ClassPredictions(np.concatenate(ranks), np.concatenate(tops), np.concatenate(probabilities))


def prediction_samples(
    pictures: list[EvalImage], classes: tuple[str, ...], asked: LabeledImages, predictions: ClassPredictions
) -> Iterator[dict[str, Any]]:
    """The answers as they are stored."""
    for place, (row, true) in enumerate(zip(asked.rows, asked.classes, strict=True)):
        yield {
            "query": pictures[row].image,
            "label": classes[true],
            "rank": int(predictions.rank[place]),
            "right": 1,
            "top": [classes[answer] for answer in predictions.top[place]],
            "probability": round(float(predictions.probability[place]), 5),
        }


@dataclass(frozen=True)
class TrainedProbe:
    """A trained head.

    Attributes:
        losses: of each step, in order.
    """

    probe: AttentiveProbe
    losses: list[float]
    field: str

    def answer(self, view: ImageBatchSource, asked: LabeledImages) -> ClassPredictions:
        """What it says of the pictures ``asked`` of ``view``."""
        parts = (asked.rows[start : start + view.at_once] for start in range(0, len(asked), view.at_once))
        logits = (self.probe(view.tokens(loaded)) for loaded in prefetch_map(view.load, parts, threads=view.threads))
        return collect_predictions(logits, asked.classes, field=self.field)


def fit_probe(
    ground: FeatureSource,
    view: ImageBatchSource,
    teachers: LabeledImages,
    classes: int,
    spec: TuningSpec,
    *,
    seed: int,
    field: str,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> TrainedProbe:
    """Cross-entropy over ``classes`` on the pictures ``teachers`` of ``view``; deterministic by ``seed``.

    Args:
        field: of the evaluation's spec that holds ``spec``, for messages.
        on_step: called with the number of pictures of each step.

    Raises:
        UserError: ``tuning_diverged``, or a picture that cannot be read.
    """
    generator = torch.Generator().manual_seed(seed)
    probe = AttentiveProbe(ground.width, classes, generator).to(ground.device)
    targets = torch.from_numpy(teachers.classes).to(ground.device)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(teachers), generator=generator).split(spec.batch_size)
        draws = (random.Random(f"{seed} {epoch} {number}") for number in range(len(order)))  # noqa: S311
        return prefetch_map(load, zip(order, draws, strict=True), threads=view.threads)

    def load(job: tuple[Tensor, random.Random]) -> tuple[Tensor, Tensor]:
        picks, draw = job
        return picks, view.load(teachers.rows[picks.numpy()], draw)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        picks, loaded = batch
        wanted = targets[picks.to(ground.device)]
        return F.cross_entropy(probe(view.tokens(loaded)), wanted, label_smoothing=spec.label_smoothing)

    losses = train_head(
        probe, batches, loss, spec, steps=count_steps(spec, len(teachers)), field=field, tower=ground.tower,
        precision=ground.precision, on_step=lambda batch: on_step(len(batch[0])),
    )  # fmt: skip
    return TrainedProbe(probe, losses, field)


STEP_COST = {"frozen": 0.05, "full": 3.0}  # rough cost of learning from a picture once, in embedded pictures


@dataclass(frozen=True)
class ProbeTraining:
    """Everything that does not change from one attempt to the next.

    Attributes:
        split, pictures: to learn from.
        classes: how many.
        field: of the evaluation's spec that holds the hyper-parameters.
        about: says in artifacts what is learnt: task, variant.
    """

    room: EvalContext
    encoder: EvaluatedEncoder
    transfer: Transfer
    split: str
    pictures: list[EvalImage]
    classes: int
    field: str
    about: dict[str, Any]

    def learn(self, spec: TuningSpec, teachers: LabeledImages, *, seed: int) -> FittedClassifier:
        """A new head, and in full transfer a new copy of the encoder."""
        ground = FEATURE_SOURCES[self.transfer](self.room, self.encoder, spec.augmentation)
        view = ground.view(self.split, self.pictures)
        head = fit_probe(ground, view, teachers, self.classes, spec, seed=seed, field=self.field, on_step=self._count)
        return FittedClassifier(ground, head)

    def choose(self, spec: TuningSpec, holdout: Holdout | None, *, seed: int) -> TuningSpec:
        """The protocol's spec with what is best on the pictures held out; the run's choices say what was tried."""
        spec = spec.for_protocol(self.transfer)
        if holdout is None:
            return spec

        def attempt(candidate: TuningSpec) -> float:
            graduate = self.learn(candidate, holdout.teachers, seed=seed)
            answers = graduate.answer(holdout.split, holdout.pictures, holdout.asked)
            return float(np.mean(answers.rank == 1))

        self.room.progress.enter(f"{self.encoder.role} encoder: choosing for {self.transfer} transfer")
        chosen, choice = grid_search(spec, attempt, field=self.field)
        if choice is not None:
            held = {"split": holdout.split, "pictures": len(holdout.asked), "of": len(holdout.pictures)}
            self.room.choices.add({**self._named, "held_out": held, "metric": "acc@1", **choice.to_dict()})
        return chosen

    def note_curve(self, head: TrainedProbe, **more: Any) -> None:
        """Its losses, thinned, go to the run's curves."""
        self.room.curves.add({**self._named, **more, **loss_curve(head.losses)})

    @property
    def _named(self) -> dict[str, Any]:
        return {**self.about, "transfer": self.transfer, "encoder": self.encoder.role}

    def _count(self, pictures: int) -> None:
        self.room.progress.add(STEP_COST[self.transfer] * pictures)


@dataclass(frozen=True)
class FittedClassifier:
    """What came out of a course."""

    ground: FeatureSource
    head: TrainedProbe

    def answer(self, split: str, pictures: list[EvalImage], asked: LabeledImages) -> ClassPredictions:
        """What it says of the pictures ``asked`` of a split."""
        return self.head.answer(self.ground.view(split, pictures), asked)


def training_cost(spec: TuningSpec, transfer: Transfer, teachers: int) -> float:
    """Rough work of learning, what is tried before included."""
    spec = spec.for_protocol(transfer)
    attempts = 1 + int(np.prod([len(values) for values in spec.search.values()])) if spec.search else 1
    learnt = spec.steps * spec.batch_size if spec.steps else spec.epochs * teachers
    return STEP_COST[transfer] * learnt * attempts
