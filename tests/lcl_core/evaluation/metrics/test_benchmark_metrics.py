"""Answers become measures: the benchmarks' own numbers, with units to draw, chance and majority."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lcl_core.evaluation.benchmarks import benchmark_metrics, get_benchmark
from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, BenchmarkQuestion
from lcl_core.evaluation.metrics.core import BootstrapMetric


def measures(benchmark: str, records: list[AnsweredQuestion]) -> dict[str, BootstrapMetric]:
    return {
        each.metric: each
        for each in benchmark_metrics({"benchmark": benchmark}, [record.to_dict() for record in records])
    }


def pope() -> list[AnsweredQuestion]:
    rng = np.random.default_rng(0)
    return [
        AnsweredQuestion(
            BenchmarkQuestion(f"{split}/{n}", f"{n}.png", "?", (("yes", "no", "no")[n % 3],), {}, {"split": split}),
            said,
        )
        for split, n in product(("random", "popular", "adversarial"), range(12))
        for said in [str(rng.choice(["Yes", "No"]))]
    ]


def mme() -> list[AnsweredQuestion]:
    rng = np.random.default_rng(0)
    return [
        AnsweredQuestion(
            BenchmarkQuestion(
                f"{subtask}/{n}#{q}", f"{subtask}/{n}", "?", (("yes", "no")[q],), {}, {"subtask": subtask}
            ),
            str(rng.choice(["Yes", "No"])),
        )
        for subtask, n, q in product(("color", "count", "code_reasoning"), range(7), range(2))
    ]


def choices(turns: int = 1) -> list[AnsweredQuestion]:
    options = dict(zip("ABCD", ("red", "blue", "grey", "pink"), strict=True))
    groups = {"medium": "image", "dimension": "colour", "category": "colour"}
    return [
        AnsweredQuestion(
            BenchmarkQuestion(
                f"{n}-{turn}", f"{n}", "?", ("ABCD"[n % 4],), options, groups | {"circle": f"{n}", "turn": f"{turn}"}
            ),
            "ABCD"[(n * (turn + 1)) % 4],
        )
        for n, turn in product(range(9), range(turns))
    ]


RECORDS = {"pope": pope(), "mme": mme(), "seed-bench": choices(), "mmbench": choices(turns=2)}


@pytest.mark.parametrize("benchmark", RECORDS)
def test_every_number_of_the_rule_is_there(benchmark: str) -> None:
    got = measures(benchmark, RECORDS[benchmark])
    official = get_benchmark(benchmark).score(RECORDS[benchmark]).metrics
    assert {name: measure.value for name, measure in got.items()} == pytest.approx(official)
    for name, measure in got.items():
        low, high = measure.interval(0)
        assert low <= measure.value + 1e-9, name
        assert high >= measure.value - 1e-9, name


@pytest.mark.parametrize(("benchmark", "by"), [("pope", "id"), ("mme", "image")])
def test_a_drawn_score_is_the_rule_applied_to_what_was_drawn(benchmark: str, by: str) -> None:
    records = RECORDS[benchmark]
    got = measures(benchmark, records)
    main = got["F1" if benchmark == "pope" else "perception"]
    rng = np.random.default_rng(5)
    drawn = rng.integers(len(main.units), size=len(main.units))
    again = [
        AnsweredQuestion(
            replace(requested, id=f"{requested.id}+{turn}", image=f"{requested.image}+{turn}"), record.answer
        )
        for turn, unit in enumerate(drawn)
        for record in records
        for requested in [record.question]
        if getattr(requested, by) == main.units[unit]
    ]
    counts = np.bincount(drawn, minlength=len(main.units))[None]
    expected = get_benchmark(benchmark).score(again).metrics
    for name in ("accuracy", "precision", "recall", "F1", "yes-rate", "F1 (popular)") if benchmark == "pope" else (
        "perception", "cognition", "score (color)"
    ):  # fmt: skip
        measure = got[name]
        assert measure.statistic(np.asarray(measure.values), counts)[0] == pytest.approx(expected[name]), name


def simulated(benchmark: str, metric: str, draws: int = 3000) -> float:
    """Mean of a metric when answers are drawn by lot."""
    rng = np.random.default_rng(1)
    records = RECORDS[benchmark]
    found = []
    for _ in range(draws):
        by_lot = [
            replace(record, answer=str(rng.choice([*record.question.options] or ["Yes", "No"]))) for record in records
        ]
        found.append(get_benchmark(benchmark).score(by_lot).metrics[metric])
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("benchmark", "metric", "draws"),
    [
        ("pope", "accuracy", 300),
        ("pope", "recall (random)", 1000),
        ("mme", "perception", 300),
        ("seed-bench", "accuracy (colour)", 300),
        ("mmbench", "accuracy", 2000),
    ],
)
def test_chance_is_what_lots_reach(benchmark: str, metric: str, draws: int) -> None:
    chance = measures(benchmark, RECORDS[benchmark])[metric].chance
    assert simulated(benchmark, metric, draws) == pytest.approx(chance, rel=0.06)


def test_free_answers_have_no_chance_but_a_majority() -> None:
    question = BenchmarkQuestion(
        "1", "1", "?", ("red",), {}, {"form": "open", "structural": "query", "semantic": "attr"}
    )
    records = [
        AnsweredQuestion(replace(question, id=str(n), truth=(("red", "red", "blue")[n],)), "blue") for n in range(3)
    ]
    got = measures("gqa", records)["accuracy"]
    assert (got.value, got.chance, got.majority) == (pytest.approx(1 / 3), None, pytest.approx(2 / 3))
