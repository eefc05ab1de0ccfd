"""The interface of a pre-training method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from lcl_core.model.batch import PackedBatch
from lcl_core.objectives.offers import Offer
from lcl_core.objectives.terms import Encoding, Losses

if TYPE_CHECKING:
    from lcl_core.model.configuration import LCLConfig
    from lcl_core.model.modeling import LCLModel
    from lcl_core.specs import ObjectiveSpec


def alone(offer: Offer) -> Offer:
    """The whole effective batch is this one."""
    return offer.detached()


@dataclass(frozen=True)
class Joint:
    """What a forward pass may know of the effective batch that its batch is a part of.

    Attributes:
        meet: from what this batch offers to what all batches of the step offer, on all ranks.
        measured: whether metrics that cost time are wanted: in steps that will be told.
    """

    meet: Callable[[Offer], Offer] = alone
    measured: bool = False


class Objective(nn.Module):
    """A pre-training method. Parameters of its own are trained and kept like the model's, but never exported.

    What it needs of a batch is found out on the host, by ``collate``. A step then asks for ``encode``, and for
    ``losses`` once the features of the whole effective batch are known.

    Attributes:
        weights: of its losses by name.
        idle: beginnings of the names of those parameters of the model that it has no use for. Their gradient is zero.
    """

    idle: tuple[str, ...] = ()

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        """The method for a model and its spec; own parameters are drawn from torch's generator."""
        return cls(spec.weights)

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        patches: Tensor | None = None,
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        """Lay documents out as the method reads them.

        Args:
            rows: token ids of each document, long, at its own length.
            pixel_values: [n, 3, S, S], their images in order.
            patches: [n, N] the patches to look at; none: all.
            keys: a 64-bit number for each document, a function of the seed and the document's place in the data:
                where random choices come from. None: the document's place in the batch.
        """
        return PackedBatch.pack(rows, pixel_values, config, patches)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        """Items that each of its sums runs over, by name, and ``contrastive`` pairs; known on the host."""
        raise NotImplementedError

    def widest(self, batch: PackedBatch) -> int:
        """Columns of the longest text that the batch offers; 0 when the method offers none."""
        return 0

    def encode(self, model: LCLModel, batch: PackedBatch) -> Encoding:
        """What the towers make of the batch, and what the rest of the effective batch has to know of it."""
        raise NotImplementedError

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: Encoding, joint: Joint) -> Losses:
        """The losses but the contrastive one, which is the step's to compute from ``encoding.pairs``."""
        raise NotImplementedError

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        """Useful floating-point operations of a training step over a batch that lies on the host."""
        raise NotImplementedError
