"""What a classifier answers: the rank of the true class and the classes it names first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcl_core.errors import UserError
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.labels import Labelled
from lcl_core.transfer.metrics import class_ranks
from lcl_core.transfer.ranking import Ints

TOP = 5


@dataclass(frozen=True)
class Predictions:
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
def predict(logits: Iterable[Tensor], classes: Ints, *, field: str) -> Predictions:
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
        tops.append(found.topk(min(TOP, found.shape[1])).indices.numpy())
        probabilities.append(found.softmax(dim=1).gather(1, torch.from_numpy(true)[:, None])[:, 0].numpy())
    return Predictions(np.concatenate(ranks), np.concatenate(tops), np.concatenate(probabilities))


def class_samples(
    pictures: list[Picture], classes: tuple[str, ...], asked: Labelled, predictions: Predictions
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
