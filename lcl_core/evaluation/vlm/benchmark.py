"""Benchmark set: the questions of a benchmark with their images and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.benchmarks.base import BenchmarkQuestion
from lcl_core.evaluation.benchmarks.registry import get_benchmark
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, Turn
from lcl_core.evaluation.vlm.image_source import Base64Images, FolderImages, ImageSource
from lcl_core.specs.evaluate import BenchmarkSpec


@dataclass(frozen=True)
class BenchmarkSet:
    """The questions of one benchmark.

    Attributes:
        benchmark: a name in ``BENCHMARKS``.
        split: a file's name, or the split that synthetic questions are made of.
        corpus: of the images.
        images: each once.
        questions: in the order of the files.
        rows: [Q] row in ``images`` of each question's image.
        left_out: number of other questions, by reason.
    """

    benchmark: str
    split: str
    corpus: Corpus
    images: list[EvalImage]
    questions: list[BenchmarkQuestion]
    rows: Ints
    left_out: dict[str, int]

    @property
    def source_key(self) -> str:
        """Names its image source among those of the run; two folders may have one name."""
        return f"{self.benchmark} {self.split}"

    @property
    def turns(self) -> list[Turn]:
        """[Q] each question with its image and its published prompt, not yet answered."""
        prompts = map(get_benchmark(self.benchmark).prompt, self.questions)
        return [Turn(f"{IMAGE_MARK}\n{prompt.replace(IMAGE_MARK, ' ')}", None) for prompt in prompts]


def load_benchmark_set(spec: BenchmarkSpec, max_images: int | None, *, seed: int, field: str) -> BenchmarkSet:
    """A benchmark from its official files. Questions whose image is missing are left out and counted.

    Args:
        max_images: images to sample by ``seed``; None: all.
        field: of the evaluation's spec that holds ``spec``.

    Raises:
        UserError: the files cannot be read, or none of the images is there.
    """
    path, benchmark = Path(spec.path), get_benchmark(spec.name)
    questions = benchmark.load(path)
    source = _open_images(spec, path, field)
    named = [(question, next(filter(source.has, benchmark.image_names(question)), None)) for question in questions]
    present = [replace(question, image=name) for question, name in named if name is not None]
    if not present:
        raise UserError(
            f"none of the images that {spec.name} asks about are here", code="images_missing",
            field=f"{field}.images", file=spec.images and Path(spec.images),
        )  # fmt: skip
    names = sample_names([question.image for question in present], max_images, seed)
    chosen = [question for question in present if question.image in names]
    reasons = {"no_picture": len(questions) - len(present), "not_drawn": len(present) - len(chosen)}
    left_out = {reason: count for reason, count in reasons.items() if count}
    return make_benchmark_set(spec.name, path.name, source, chosen, left_out)


def _open_images(spec: BenchmarkSpec, path: Path, field: str) -> ImageSource:
    """The benchmark's images: the named folder, or those that its file holds."""
    if spec.images is not None:
        return FolderImages(Path(spec.images), field=f"{field}.images")
    embedded = get_benchmark(spec.name).embedded_images(path)
    if embedded is None:
        raise UserError(
            f"{spec.name} does not hold its images; name their folder in {field}.images",
            code="images_missing", field=f"{field}.images",
        )  # fmt: skip
    return Base64Images(*embedded)


def make_benchmark_set(
    benchmark: str,
    split: str,
    corpus: Corpus,
    questions: list[BenchmarkQuestion],
    left_out: dict[str, int] | None = None,
) -> BenchmarkSet:
    """A set of ``questions`` whose images have the same names in ``corpus``."""
    row_of = {name: row for row, name in enumerate(dict.fromkeys(question.image for question in questions))}
    images = [EvalImage(name, (), {}) for name in row_of]
    rows = np.array([row_of[question.image] for question in questions], np.int64)
    return BenchmarkSet(benchmark, split, corpus, images, questions, rows, left_out or {})


def sample_names(names: Sequence[str], count: int | None, seed: int) -> set[str]:
    """At most ``count`` different names, by the seed; every question about an image is kept or none."""
    known = list(dict.fromkeys(names))
    if count is None or count >= len(known):
        return set(known)
    return {known[row] for row in np.random.default_rng(seed).choice(len(known), count, replace=False)}
