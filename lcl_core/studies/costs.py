"""What a cell's pre-training cost."""

from __future__ import annotations

from collections.abc import Sequence

from lcl_core.errors import UserError
from lcl_core.specs import PretrainSpec, parse_spec
from lcl_core.studies.facts import CellFacts, RunFacts
from lcl_core.studies.flops import training_flops
from lcl_core.studies.numbers import is_number
from lcl_core.studies.statistics import mean

COUNTS = ("images_seen", "tokens_seen", "documents_seen")
COSTS = ("seconds", "images_seen", "tokens_seen", "flops", "parameters")


def costs_of(cells: Sequence[CellFacts]) -> dict[str, float | None]:
    """Means over the cells whose pre-training has succeeded; None while there is none."""
    found = [_cost(cell.run) for cell in cells]
    known = [cost for cost in found if cost is not None]
    return {name: mean([cost[name] for cost in known if name in cost]) for name in COSTS}


def _cost(run: RunFacts) -> dict[str, float] | None:
    """What the run reported, and the operations estimated from it."""
    encoder = run.result.get("encoder")
    if not isinstance(encoder, dict):
        return None
    cost = {name: float(value) for name in COSTS if is_number(value := encoder.get(name))}
    images, tokens, documents = (encoder.get(name) for name in COUNTS)
    spec = _spec(run)
    if spec is not None and is_number(images) and is_number(tokens) and is_number(documents):
        cost["flops"] = training_flops(spec, int(images), int(tokens), int(documents))
    return cost


def _spec(run: RunFacts) -> PretrainSpec | None:
    """None for a spec of an older version that is not valid any more."""
    try:
        spec = parse_spec("pretrain", run.spec)
    except UserError:
        return None
    return spec if isinstance(spec, PretrainSpec) else None
