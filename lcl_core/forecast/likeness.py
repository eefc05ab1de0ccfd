"""What runs of the past say about one that is to come: how like they are, how fast they were, what they needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lcl_core.costs.flops import STEP
from lcl_core.costs.memory import Memory, training_memory
from lcl_core.costs.methods import FORWARD, Load, expected
from lcl_core.costs.parameters import method_parameters, model_parameters
from lcl_core.costs.sizes import sizes_of
from lcl_core.forecast.mix import Mix, documents_of
from lcl_core.forecast.past import Past, processes
from lcl_core.specs import PretrainSpec

COUNTED = 5  # runs whose rates are looked at
_AS_NEAR = 0.5  # beyond the nearest
_OTHER_METHOD, _OTHER_WAY = 0.3, 0.2  # as if the sizes differed by e to this


@dataclass(frozen=True)
class Setup:
    """A spec with its sizes in numbers.

    Attributes:
        parameters: all that are trained.
        flops: useful operations that a process makes in a step.
        at_once: what a process reads at once.
    """

    spec: PretrainSpec
    parameters: int
    flops: float
    at_once: Load

    @staticmethod
    def of(spec: PretrainSpec, mix: Mix) -> Setup:
        return Setup.reading(spec, mix.load(spec), mix.documents(spec))

    @staticmethod
    def reading(spec: PretrainSpec, one: Load, documents: float) -> Setup:
        """With so many mean documents at once in a process."""
        sizes = sizes_of(spec)
        flops = STEP * FORWARD[spec.objective.name](sizes, one) * documents * spec.engine.accumulate
        many = Load(
            one.images * documents,
            one.patches,
            [length * documents for length in one.lengths],
            one.labels * documents,
            one.restored * documents,
        )
        parameters = model_parameters(sizes) + method_parameters(spec.objective.name, sizes)
        return Setup(spec, parameters, flops, many)

    def memory(self, *, half: bool, on_gpu: bool) -> Memory:
        """Of one process. On a GPU what a checkpoint writes meanwhile is in the host's memory."""
        engine, average = self.spec.engine, self.spec.ema_decay is not None
        return training_memory(
            sizes_of(self.spec),
            self.parameters,
            self.at_once,
            image_size=self.spec.model.image_size,
            half=half,
            average=average,
            staged=self.spec.async_checkpoint and not on_gpu,
            checkpointing=engine.activation_checkpointing,
            shards=processes(self.spec) if engine.strategy == "fsdp2" else 1,
        )


@dataclass(frozen=True)
class Like:
    """A run of the past beside the one to come.

    Attributes:
        distance: 0 for the very same setup; else about the logarithm of how much sizes differ.
        rate: useful FLOP/s of a process.
    """

    past: Past
    setup: Setup
    distance: float
    rate: float


def likes_of(setup: Setup, pasts: Sequence[Past]) -> list[Like]:
    """The nearest few, nearest first; of equally near ones those that come first."""
    found = sorted((_like(setup, past) for past in pasts), key=lambda like: like.distance)
    return [like for like in found if like.distance <= found[0].distance + _AS_NEAR][:COUNTED]


def around(likes: Sequence[Like]) -> float | None:
    """Seconds beside the steps, as those runs had them; None: none tells."""
    told = [like.past.around for like in likes if like.past.around is not None]
    return median(told) if told else None


def _like(setup: Setup, past: Past) -> Like:
    documents = documents_of(past)
    one = expected(past.spec.objective, past.images / documents, past.spec.kept_patches, past.tokens / documents)
    ranks, accumulate = processes(past.spec), past.spec.engine.accumulate
    own = Setup.reading(past.spec, one, documents / past.steps / ranks / accumulate)
    rate = own.flops * past.steps / past.seconds
    return Like(past, own, _distance(setup, own), rate)


def _distance(one: Setup, other: Setup) -> float:
    a, b = one.spec, other.spec
    sizes = _apart(one.flops, other.flops) + _apart(one.parameters, other.parameters)
    ways = [
        a.precision != b.precision,
        a.engine.compile != b.engine.compile,
        a.engine.strategy != b.engine.strategy,
        a.engine.activation_checkpointing != b.engine.activation_checkpointing,
        a.engine.accumulate != b.engine.accumulate,
    ]
    joined = _OTHER_WAY * _apart(processes(a), processes(b))
    return sizes / 2 + _OTHER_METHOD * (a.objective.name != b.objective.name) + _OTHER_WAY * sum(ways) + joined


def _apart(one: float, other: float) -> float:
    return abs(math.log(one / other))
