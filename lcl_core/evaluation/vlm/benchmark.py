"""Benchmark set: the questions of a benchmark with their images and with the prompts that LLaVA-1.5 published.

Sources: docs/Evaluation.md of github.com/haotian-liu/LLaVA; for VizWiz, ScienceQA and MME its evaluation files and the
defaults of github.com/EvolvingLMMs-Lab/lmms-eval, which agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.benchmarks.base import BenchmarkQuestion
from lcl_core.evaluation.benchmarks.registry import get_benchmark
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, Turn
from lcl_core.evaluation.vlm.image_source import find_image, open_image_source
from lcl_core.specs.evaluate import BenchmarkSpec

SHORT_ANSWER_PROMPT = "\nAnswer the question using a single word or phrase."
LETTER_PROMPT = "\nAnswer with the option's letter from the given choices directly."
_UNANSWERABLE_PROMPT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_YES_NO_PROMPT = " Please answer yes or no."


def question_turn(benchmark: str, question: BenchmarkQuestion) -> Turn:
    """The question with its picture at the head, not yet answered."""
    return Turn(f"{IMAGE_MARK}\n{_PROMPTS[benchmark](question).replace(IMAGE_MARK, ' ')}", None)


def short_answer_prompt(question: BenchmarkQuestion) -> str:
    return question.text + SHORT_ANSWER_PROMPT


def choice_prompt(question: BenchmarkQuestion) -> str:
    options = "".join(f"\n{letter}. {text}" for letter, text in question.options.items())
    return question.text + options + LETTER_PROMPT


def _vizwiz_prompt(question: BenchmarkQuestion) -> str:
    return question.text + _UNANSWERABLE_PROMPT + SHORT_ANSWER_PROMPT


def _mme_prompt(question: BenchmarkQuestion) -> str:
    """MME's files ask for yes or no themselves; the published prompt says so in its own words."""
    return question.text.replace(_YES_NO_PROMPT, "").strip() + SHORT_ANSWER_PROMPT


_PROMPTS: dict[str, Callable[[BenchmarkQuestion], str]] = {
    "vqav2": short_answer_prompt,
    "gqa": short_answer_prompt,
    "vizwiz": _vizwiz_prompt,
    "scienceqa-img": choice_prompt,
    "pope": short_answer_prompt,
    "mme": _mme_prompt,
    "mmbench": choice_prompt,
    "seed-bench": choice_prompt,
}


@dataclass(frozen=True)
class BenchmarkSet:
    """The questions of one benchmark.

    Attributes:
        benchmark: a name in ``lcl_core.evaluation.benchmarks.registry.BENCHMARKS``.
        split: what is asked: a file's name, or the split that questions were made of.
        corpus: where the pictures lie.
        pictures: each once.
        questions: in the order of the files.
        rows: [Q] the picture of each question.
        left_out: how many are not asked, by reason.
    """

    benchmark: str
    split: str
    corpus: Corpus
    pictures: list[EvalImage]
    questions: list[BenchmarkQuestion]
    rows: Ints
    left_out: dict[str, int]

    @property
    def album(self) -> str:
        """Tells its pictures from those of the run's other exams; two folders may have one name."""
        return f"{self.benchmark} {self.split}"

    @property
    def turns(self) -> list[Turn]:
        """[Q] each question in the benchmark's published words."""
        return [question_turn(self.benchmark, question) for question in self.questions]


def load_benchmark_set(spec: BenchmarkSpec, most: int | None, *, seed: int, field: str) -> BenchmarkSet:
    """A benchmark from its official files. Questions whose picture is not there are left out and counted.

    Args:
        most: ask about so many pictures, drawn by ``seed``; none: all.
        field: of the evaluation's spec that holds ``spec``.

    Raises:
        UserError: the files cannot be read, or none of the pictures is there.
    """
    path = Path(spec.path)
    images = None if spec.images is None else Path(spec.images)
    questions = get_benchmark(spec.name).load(path)
    album = open_image_source(spec.name, path, images, field=field)
    shown = [(question, find_image(spec.name, question, album)) for question in questions]
    there = [(question, name) for question, name in shown if name is not None]
    if not there:
        raise UserError(
            f"none of the pictures that {spec.name} asks about are here", code="images_missing",
            field=f"{field}.images", file=images,
        )  # fmt: skip
    asked = sample_names([name for _, name in there], most, seed)
    chosen = [(question, name) for question, name in there if name in asked]
    reasons = {"no_picture": len(questions) - len(there), "not_drawn": len(there) - len(chosen)}
    left_out = {reason: count for reason, count in reasons.items() if count}
    return make_benchmark_set(
        spec.name, path.name, album, [replace(each, image=name) for each, name in chosen], left_out
    )


def make_benchmark_set(
    benchmark: str,
    split: str,
    corpus: Corpus,
    questions: list[BenchmarkQuestion],
    left_out: dict[str, int] | None = None,
) -> BenchmarkSet:
    """An exam of ``questions`` about pictures that lie in ``corpus`` under the names they have in the questions."""
    row_of = {name: row for row, name in enumerate(dict.fromkeys(question.image for question in questions))}
    pictures = [EvalImage(name, (), {}) for name in row_of]
    rows = np.array([row_of[question.image] for question in questions], np.int64)
    return BenchmarkSet(benchmark, split, corpus, pictures, questions, rows, left_out or {})


def sample_names(names: Sequence[str], most: int | None, seed: int) -> set[str]:
    """At most so many of the names, by the seed; every question about a picture is asked or none."""
    known = list(dict.fromkeys(names))
    if most is None or most >= len(known):
        return set(known)
    return {known[place] for place in np.random.default_rng(seed).choice(len(known), most, replace=False)}
