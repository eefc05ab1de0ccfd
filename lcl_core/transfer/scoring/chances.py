"""What answers drawn at random reach in a dialogue benchmark, by arithmetic; nothing where answers are free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lcl_core.transfer.answers import Answered
from lcl_core.transfer.answers.mme import AREAS
from lcl_core.transfer.answers.question import broken_down, means

Records = Sequence[Answered]

_HALF = 0.5
_MME_SUBTASK = 75.0  # 100 (acc + acc+): one of two, and both of two


def chance_of(benchmark: str, records: Records) -> dict[str, float]:
    """By the metrics' names, those that chance says something of."""
    rule = _RULES.get(benchmark)
    return {} if rule is None else rule(records)


def _choices(records: Records) -> dict[str, float]:
    """One of the options, each as likely."""
    return _by_groups("accuracy", {record.question.id: 1 / len(record.question.options) for record in records}, records)


def _circles(records: Records) -> dict[str, float]:
    """All turns of a question right; a question's first turn stands for it."""
    together: dict[str, float] = {}
    first: dict[str, Answered] = {}
    for record in sorted(records, key=lambda record: int(record.question.groups["turn"])):
        circle = record.question.groups["circle"]
        together[circle] = together.get(circle, 1.0) / len(record.question.options)
        first.setdefault(circle, record)
    heads = list(first.values())
    circular = {record.question.id: together[circle] for circle, record in first.items()}
    vanilla = means({"vanilla accuracy": {each.question.id: 1 / len(each.question.options) for each in heads}})
    return _by_groups("accuracy", circular, heads) | vanilla


def _yes_or_no(records: Records) -> dict[str, float]:
    """POPE: the share of "yes" that is right is the share of questions whose answer is yes."""
    splits: dict[str, list[bool]] = {}
    for record in records:
        splits.setdefault(record.question.groups["split"], []).append(record.question.truth[0] == "yes")
    each = {split: _coin(sum(truths) / len(truths)) for split, truths in splits.items()}
    overall = {name: sum(rates[name] for rates in each.values()) / len(each) for name in next(iter(each.values()))}
    return overall | {f"{name} ({split})": value for split, rates in each.items() for name, value in rates.items()}


def _coin(yes: float) -> dict[str, float]:
    return {
        "accuracy": _HALF, "yes-rate": _HALF, "recall": _HALF, "precision": yes, "F1": 2 * yes * _HALF / (yes + _HALF),
    }  # fmt: skip


def _mme(records: Records) -> dict[str, float]:
    subtasks = {record.question.groups["subtask"] for record in records}
    found = {f"{metric} ({name})": value for name in subtasks for metric, value in _MME_EACH.items()}
    return found | {area: _MME_SUBTASK * len(subtasks & set(names)) for area, names in AREAS.items()}


_MME_EACH = {"acc": _HALF, "acc+": _HALF**2, "score": _MME_SUBTASK}


def _by_groups(name: str, each: dict[str, float], records: Records) -> dict[str, float]:
    groups = dict.fromkeys(group for record in records for group in record.question.groups)
    return means(broken_down(name, each, records, *groups))


_RULES: dict[str, Callable[[Records], dict[str, float]]] = {
    "scienceqa-img": _choices,
    "seed-bench": _choices,
    "mmbench": _circles,
    "pope": _yes_or_no,
    "mme": _mme,
}
