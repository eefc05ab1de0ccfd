"""A pre-training that has ended or is under way, as far as a forecast can learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lcl_core.errors import UserError
from lcl_core.specs import PretrainSpec, parse_spec

GIB = 2**30


@dataclass(frozen=True)
class Past:
    """Counts over ``seconds`` of steps.

    Attributes:
        resource: what its worker had to offer.
        documents: 0 while unknown: a run tells them when it has ended.
        memory: peak of a process, bytes; 0: unknown.
        around: seconds that went by beside its steps, such as its start; None: unknown.
    """

    run_id: str
    spec: PretrainSpec
    resource: str
    steps: int
    seconds: float
    images: float
    tokens: float
    documents: float
    memory: float
    around: float | None

    @property
    def counted(self) -> bool:
        return self.documents > 0


def processes(spec: PretrainSpec) -> int:
    """That train together."""
    return spec.engine.nodes * spec.engine.processes


def past_of(
    run_id: str,
    spec: Mapping[str, Any],
    resource: str,
    progress: Mapping[str, Any] | None,
    result: Mapping[str, Any] | None,
    ran_seconds: float | None = None,
) -> Past | None:
    """From a run's row; None when it tells too little, or its spec is of an older version and not valid any more.

    Args:
        progress: its last line of metrics.
        result: what it ended with; None: it has not.
        ran_seconds: that one attempt took from its start to its end; None: it had several.
    """
    try:
        parsed = parse_spec("pretrain", dict(spec))
    except UserError:
        return None
    assert isinstance(parsed, PretrainSpec)
    encoder = (result or {}).get("encoder")
    if isinstance(encoder, Mapping):
        return _ended(run_id, parsed, resource, encoder, (result or {}).get("final") or {}, ran_seconds)
    return _under_way(run_id, parsed, resource, progress or {})


def _ended(
    run_id: str,
    spec: PretrainSpec,
    resource: str,
    encoder: Mapping[str, Any],
    final: Mapping[str, Any],
    ran_seconds: float | None,
) -> Past | None:
    names = ("steps", "seconds", "images_seen", "tokens_seen", "documents_seen")
    steps, seconds, images, tokens, documents = (_number(encoder, name) for name in names)
    if not (steps and seconds and images and tokens and documents):
        return None
    around = None if ran_seconds is None else max(ran_seconds - seconds, 0.0)
    memory = _number(final, "memory_gib") * GIB
    return Past(run_id, spec, resource, int(steps), seconds, images, tokens, documents, memory, around)


def _under_way(run_id: str, spec: PretrainSpec, resource: str, line: Mapping[str, Any]) -> Past | None:
    """At the rates of its last line, over all that it has seen."""
    names = ("step", "images_seen", "images_per_s", "tokens_per_s")
    step, images, per_second, tokens = (_number(line, name) for name in names)
    if not (step and images and per_second and tokens):
        return None
    memory = _number(line, "memory_gib") * GIB
    seconds = images / per_second
    return Past(run_id, spec, resource, int(step), seconds, images, tokens * seconds, 0.0, memory, None)


def _number(facts: Mapping[str, Any], name: str) -> float:
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0
