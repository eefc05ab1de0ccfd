"""Choosing hyper-parameters: every combination that a spec names is tried on pictures held out of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from lcl_core.errors import UserError
from lcl_core.specs import TuningSpec

S = TypeVar("S", bound=TuningSpec)


@dataclass(frozen=True)
class Trial:
    """One combination of values, and what it reached; none if its training diverged."""

    values: dict[str, Any]
    score: float | None


@dataclass(frozen=True)
class Choice:
    """What was tried, in the order of the spec, and the spec's place of the best; of equals the first."""

    trials: list[Trial]
    best: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values: ``tried`` and ``chosen``."""
        tried = [{**trial.values, "score": trial.score} for trial in self.trials]
        return {"tried": tried, "chosen": self.trials[self.best].values}


def choose(spec: S, attempt: Callable[[S], float], *, field: str) -> tuple[S, Choice | None]:
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
    candidates = [spec.having(**dict(zip(names, values, strict=True))) for values in product(*spec.search.values())]
    trials = [Trial({name: getattr(each, name) for name in names}, _attempt(attempt, each)) for each in candidates]
    reached = [-float("inf") if trial.score is None else trial.score for trial in trials]
    best = max(range(len(trials)), key=reached.__getitem__)
    if trials[best].score is None:
        raise UserError(
            f"every combination of {field}.search diverges; lower the rates", code="tuning_diverged",
            field=f"{field}.search",
        )  # fmt: skip
    return candidates[best], Choice(trials, best)


def _attempt(attempt: Callable[[S], float], candidate: S) -> float | None:
    try:
        return attempt(candidate)
    except UserError as error:
        if error.code != "tuning_diverged":
            raise
        return None
