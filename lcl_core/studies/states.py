"""How cells and studies stand. Derived from the states of runs, so that the two can never disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

QUEUED, RUNNING, CANCELLING, SUCCEEDED = "queued", "running", "cancelling", "succeeded"
FAILED, CANCELLED = "failed", "cancelled"
HELD = ("waiting", "pausing", "paused")  # a person's doing: nothing goes on until the person lets it
UNFINISHED = (QUEUED, RUNNING, CANCELLING, *HELD)
STATES = (*UNFINISHED, SUCCEEDED, FAILED, CANCELLED)


def cell_state(run: str, evaluation: str | None, *, cancelled: bool = False) -> str:
    """Of a cell by its pre-training and its examination; between the two it is running.

    Args:
        cancelled: nothing more will be submitted for its study.
    """
    if run != SUCCEEDED:
        return run
    if evaluation is None:
        return CANCELLED if cancelled else RUNNING
    return RUNNING if evaluation == QUEUED else evaluation


def study_state(counts: Mapping[str, int], *, cancelled: bool = False, more_to_come: bool = False) -> str:
    """Of a study by how many of its cells are in each state.

    Args:
        cancelled: somebody asked for its end; what still runs then runs for another study.
        more_to_come: a halving is about to promote trials.
    """
    if cancelled:
        return CANCELLING if counts.get(CANCELLING) else CANCELLED
    if counts.get(QUEUED, 0) == sum(counts.values()):
        return QUEUED
    if more_to_come or any(counts.get(state) for state in UNFINISHED):
        return RUNNING
    return FAILED if counts.get(FAILED) or counts.get(CANCELLED) else SUCCEEDED


def counted(states: Iterable[str]) -> dict[str, int]:
    """{state: how many}, states that do not occur left out."""
    found: dict[str, int] = dict.fromkeys(STATES, 0)
    for state in states:
        found[state] += 1
    return {state: count for state, count in found.items() if count}
