"""The settings that a search tries."""

from __future__ import annotations

import math
import random
from typing import Any

from lcl_core.specs import ChoiceSpec, GridSearch, HalvingSearch, RandomSearch, RangeSpec

DIGITS = 4  # of a drawn number: enough for any learning rate, and it can be read


def draws(search: GridSearch | RandomSearch | HalvingSearch) -> list[dict[str, Any]]:
    """{dotted field: value} of every trial, the same for the same seed; a grid has one without any field.

    Each trial has a stream of its own, so more trials begin with the same ones. Equal settings are tried once.
    """
    if isinstance(search, GridSearch):
        return [{}]
    found: list[dict[str, Any]] = []
    for trial in range(search.trials):
        stream = random.Random(f"{search.seed}/{trial}")  # noqa: S311
        setting = {field: _draw(stream, search.parameters[field]) for field in sorted(search.parameters)}
        if setting not in found:
            found.append(setting)
    return found


def _draw(stream: random.Random, parameter: ChoiceSpec | RangeSpec) -> Any:
    if isinstance(parameter, ChoiceSpec):
        return stream.choice(parameter.values)
    low, high = parameter.low, parameter.high
    if parameter.kind == "log-uniform":
        value = math.exp(stream.uniform(math.log(low), math.log(high)))
    else:
        value = stream.uniform(low, high)
    if parameter.integer:
        return min(max(round(value), math.ceil(low)), math.floor(high))
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)
