"""Evaluation task and its context: images of splits with captions and labels, features, progress."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.common.processes import prefetch_map
from lcl_core.common.run_dir import RunDir
from lcl_core.data import CaptionPair, Corpus, open_corpus
from lcl_core.evaluation.features import (
    EvaluatedEncoder,
    FeatureCache,
    Heartbeat,
    ImageFeatures,
    image_features,
    patch_features_fit,
)
from lcl_core.evaluation.metrics import Ints
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.specs.evaluate import CaptioningSpec, ClassificationSpec, DialogueSpec, EvaluateSpec, TunedRetrievalSpec

T = TypeVar("T", "Ints", "LabeledImages")  # of images that teach or are tested

HeldOutSpec = ClassificationSpec | TunedRetrievalSpec | CaptioningSpec

VALIDATION_SHARE = 0.1  # of the training images, where the spec names no validation split
_PROGRESS_SECONDS = 0.5
_CURVE_POINTS = 400


# ---- images of a split


@dataclass(frozen=True)
class EvalImage:
    """An image with all its captions and labels, also when the corpus has one line a caption."""

    name: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    source: str = ""

    def group(self, predicted: str = "") -> dict[str, str]:
        """``{"group": concept}`` for its stored prediction, since images of one concept are drawn together.

        Empty where the concept is not known, or is the label that is ``predicted``.
        """
        concept = self.labels.get("concept", "").lower()
        return {"group": concept} if concept and predicted != "concept" else {}


@dataclass(frozen=True)
class SplitImages:
    """The images of a split of a corpus."""

    corpus: Corpus
    split: str
    images: list[EvalImage]

    def __len__(self) -> int:
        return len(self.images)


def group_captions_by_image(pairs: Iterable[CaptionPair]) -> list[EvalImage]:
    """One EvalImage a name, captions in the order of the lines; the first value of a label counts."""
    images: dict[str, EvalImage] = {}
    for pair in pairs:
        old = images.get(pair.image, EvalImage(pair.image, (), {}, pair.source))
        captions, labels = old.captions + tuple(pair.captions), {**pair.labels, **old.labels}
        images[pair.image] = EvalImage(pair.image, captions, labels, old.source)
    return list(images.values())


def normalized_text(caption: str) -> str:
    """The caption without the case of letters and runs of spaces; empty where it has no word."""
    return " ".join(caption.split()).casefold()


def nonempty_captions(image: EvalImage) -> list[str]:
    """The image's captions that hold a word."""
    return [caption for caption in image.captions if normalized_text(caption)]


@dataclass(frozen=True)
class LabeledImages:
    """The images of a split that have a known class of a label.

    Attributes:
        names: [C] the classes.
        rows: [Q] rows in the split.
        classes: [Q] class numbers.
        left_out: number of other images: ``unlabelled``, and ``unseen`` (their class is not in training).
    """

    split: SplitImages
    label: str
    names: tuple[str, ...]
    rows: Ints
    classes: Ints
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, picks: Ints) -> LabeledImages:
        """Those at ``picks``, in that order."""
        return replace(self, rows=self.rows[picks], classes=self.classes[picks])


def classes_of(label: str, split: SplitImages, *, field: str) -> tuple[str, ...]:
    """The split's different values of a label, in alphabetical order."""
    classes = tuple(sorted({image.labels[label] for image in split.images if label in image.labels}))
    if len(classes) < 2:
        known = ", ".join(sorted({key for image in split.images for key in image.labels})) or "none"
        raise UserError(
            f"label {label!r} has {len(classes)} classes in split {split.split!r}; it takes two; "
            f"the split's labels: {known}",
            field=field,
        )  # fmt: skip
    return classes


def select_labeled(split: SplitImages, label: str, names: tuple[str, ...]) -> LabeledImages:
    """The images whose ``label`` is one of the classes ``names``."""
    number = {name: position for position, name in enumerate(names)}
    values = [image.labels.get(label) for image in split.images]
    known = [(row, number[value]) for row, value in enumerate(values) if value in number]
    reasons = Counter("unlabelled" if value is None else "unseen" for value in values if value not in number)
    rows, classes = np.array(known, np.int64).reshape(-1, 2).T
    return LabeledImages(split, label, names, rows, classes, dict(reasons))


def captioned_rows(split: SplitImages) -> Ints:
    """[n] rows of the images with a caption that holds a word."""
    return np.flatnonzero([bool(nonempty_captions(image)) for image in split.images])


@dataclass(frozen=True)
class Holdout(Generic[T]):
    """Images held out of training, on which hyper-parameters are chosen.

    Attributes:
        source: where the held-out images come from.
        test: the held-out ones, as labelled images or rows of ``source``.
        train: the training images to use meanwhile, as labelled images or rows.
    """

    source: SplitImages
    test: T
    train: T


def split_validation(count: int, seed: int, minimum: int = 1) -> tuple[Ints, Ints]:
    """A seeded tenth of the numbers below ``count``, at least ``minimum``, and the others; both ascending."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(minimum, round(VALIDATION_SHARE * count))
    return np.sort(order[:held_out]), np.sort(order[held_out:])


# ---- data, progress, context, task


class EvaluationData:
    """The evaluated corpus, and paths of further datasets and encoders by name; each split is read once."""

    def __init__(
        self, spec: EvaluateSpec, datasets: dict[str, str], encoders: dict[str, str], heartbeat: Heartbeat = no_progress
    ) -> None:
        self.spec, self._datasets, self._encoders, self._beat = spec, datasets, encoders, heartbeat
        self.corpus = open_corpus(self._find(datasets, spec.dataset, "dataset", "dataset"))
        self._images: dict[tuple[Path, str, str | None], list[EvalImage]] = {}
        self._train_corpora: dict[str, Corpus] = {}

    def encoder(self, name: str, field: str = "encoder") -> Path:
        return Path(self._find(self._encoders, name, "encoder", field))

    def test_images(self) -> dict[str, SplitImages]:
        """The images of each tested split."""
        return {
            split: self._read(self.corpus, split, f"splits.{self.spec.splits.index(split)}")
            for split in dict.fromkeys(self.spec.splits)
        }

    def train_images(self, own: HeldOutSpec | DialogueSpec, field: str, *, tested: bool = True) -> SplitImages:
        """The images that a task learns from: of the dataset that ``own`` names, else of the evaluated one.

        ``tested``: the task is tested on the spec's splits of the evaluated dataset.
        """
        split, corpus = own.train_split, self._train_corpus(own, field)
        if corpus.path == self.corpus.path and tested and split in self.spec.splits:
            raise UserError(
                f"{field} learns from split {split!r}, so it cannot be examined on it; "
                f"name another in splits or in {field}.train_split",
                field=f"splits.{self.spec.splits.index(split)}",
            )  # fmt: skip
        return self._read(corpus, split, f"{field}.train_split")

    def make_holdout(
        self, own: HeldOutSpec, field: str, train: SplitImages, learnt: T, select: Callable[[SplitImages], T],
        minimum: int = 1,
    ) -> Holdout[T]:  # fmt: skip
        """What ``select`` finds in the named validation split, else a seeded tenth of what is learnt."""
        split, corpus = own.validation_split, self._train_corpus(own, field)
        if split is None:
            test, rest = split_validation(len(learnt), self.spec.seed, minimum)
            return Holdout(train, learnt[test], learnt[rest])
        tested = corpus.path == self.corpus.path and split in self.spec.splits
        if tested or split == own.train_split:
            use = "examined" if tested else "learnt from"
            raise UserError(
                f"split {split!r} is {use}, so nothing may be chosen on it; name another in {field}.validation_split, "
                "or none for a tenth of the training images",
                field=f"{field}.validation_split",
            )  # fmt: skip
        validation = self._read(corpus, split, f"{field}.validation_split")
        return Holdout(validation, select(validation), learnt)

    def _train_corpus(self, own: HeldOutSpec | DialogueSpec, field: str) -> Corpus:
        if own.train_dataset in (None, self.spec.dataset):
            return self.corpus
        path = self._find(self._datasets, str(own.train_dataset), "dataset", f"{field}.train_dataset")
        if path not in self._train_corpora:
            self._train_corpora[path] = open_corpus(path)
        return self._train_corpora[path]

    def _read(self, corpus: Corpus, split: str, field: str) -> SplitImages:
        """The split's images without the excluded ones; of the evaluated corpus those of the spec's source alone."""
        source = self.spec.source if corpus.path == self.corpus.path else None
        key = (corpus.path, split, source)
        if key not in self._images:
            pairs = corpus.pairs(split, source=source)
            threads = corpus.concurrent_reads if corpus.concurrent_reads > 1 else 0  # where reads wait for a network
            lines = []
            for pair in prefetch_map(pairs.describe, range(len(pairs)), threads=threads):
                self._beat()
                lines.append(pair)
            self._images[key] = group_captions_by_image(lines)
        if not self._images[key]:
            of_source = f" of source {source!r}" if source else ""
            known = ", ".join(sorted(corpus.splits())) or "none"
            raise UserError(
                f"split {split!r} has no captioned images{of_source}; the corpus has splits: {known}",
                code="no_data", field=field,
            )  # fmt: skip

        def is_excluded(image: EvalImage) -> bool:
            return any(image.labels.get(label) in values for label, values in self.spec.exclude.items())

        images = [image for image in self._images[key] if not is_excluded(image)]
        if not images:
            raise UserError(
                f"every image of split {split!r} is excluded; exclude fewer labels",
                code="no_data", field="exclude",
            )  # fmt: skip
        return SplitImages(corpus, split, images)

    @staticmethod
    def _find(known: dict[str, str], name: str, kind: str, field: str) -> str:
        if name not in known:
            raise UserError(
                f"{kind} {name!r} is not registered; register it or choose another", code="not_found", field=field
            )
        return known[name]


class EvalProgress:
    """Progress of an evaluation in the run's metrics file, in tasks of one encoder; checks for a stop request.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, run_dir: RunDir, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_dir, self._clock = run_dir, clock
        self._started = self._written = clock()
        self._done, self._total, self._phase = 0, 0, ""

    def start(self, total: int) -> None:
        """``total`` tasks begin: the time until now says nothing about the time left."""
        self._total, self._started = total, self._clock()

    def task_done(self) -> None:
        self._done += 1

    def enter(self, phase: str) -> None:
        """Name the next phase and write a line at once."""
        self._run_dir.raise_if_stopped()
        self._phase, now = phase, self._clock()
        known: dict[str, float] = {"total_steps": self._total} if self._total else {}
        if self._done:
            known["seconds_left"] = round((now - self._started) * (self._total / self._done - 1), 1)
        self._run_dir.append_metrics(step=self._done, phase=phase, **known)
        self._written = now

    def heartbeat(self) -> None:
        """Work goes on: a line now and then, by which a hung run is told from a long phase."""
        self._run_dir.raise_if_stopped()
        if self._clock() - self._written >= _PROGRESS_SECONDS:
            self.enter(self._phase)


@dataclass(frozen=True)
class EvalContext:
    """What tasks share while they run on one encoder.

    Attributes:
        artifacts: folder for files besides predictions.
        choices: log of hyper-parameter searches.
        curves: log of training losses.
        needs_patch_features: some task of the run uses patch features. Those that fit the cache are then computed with
            the pooled latents, in one pass over the images.
    """

    spec: EvaluateSpec
    encoder: EvaluatedEncoder
    predictions: PredictionStore
    cache: FeatureCache
    progress: EvalProgress
    artifacts: Path
    needs_patch_features: bool
    choices: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)

    def enter(self, phase: str) -> None:
        """Name the next phase of the encoder's evaluation."""
        self.progress.enter(f"{self.encoder.role} encoder: {phase}")

    def fit_labels(self, task: str, variant: str, transfer: str) -> dict[str, str]:
        """What names a fit in the logs of choices and losses."""
        return {"task": task, "variant": variant, "transfer": transfer, "encoder": self.encoder.role}

    def log_losses(self, labels: dict[str, str], losses: Sequence[float]) -> None:
        """The loss of each step as an entry of ``curves.json``, thinned by averaging neighbours."""
        every = max(1, -(-len(losses) // _CURVE_POINTS))
        points = [round(float(np.mean(losses[start : start + every])), 5) for start in range(0, len(losses), every)]
        self.curves.append({**labels, "steps_a_point": every, "loss": points})

    def store(self, samples: Iterable[dict[str, Any]], **about: Any) -> None:
        """Store predictions of the encoder; ``about``: the other fields of :class:`PredictionFile`."""
        self.predictions.add(PredictionFile(encoder=self.encoder.role, **about), samples)

    def get_pooled_latents(self, split: SplitImages) -> NDArray[np.float32]:
        """Pooled latents of a split's images, computed once."""
        if self.encoder.model.embed_dim is None:
            raise UserError(
                "this encoder has no pooled latents; leave out retrieval, zero-shot classification and the heads "
                "linear and knn", code="unsupported", field="tasks",
            )  # fmt: skip
        patches = self.needs_patch_features and patch_features_fit(self.encoder, len(split), self.cache)
        pooled = self._get_features(split, patches=patches).pooled
        assert pooled is not None
        return pooled

    def get_patch_features(self, split: SplitImages) -> NDArray[np.float16] | None:
        """Frozen patch features of a split's images, computed once; None where they are too large for the cache."""
        if not patch_features_fit(self.encoder, len(split), self.cache):
            return None
        return self._get_features(split, patches=True).patches

    def _get_features(self, split: SplitImages, *, patches: bool) -> ImageFeatures:
        self.enter(f"images of {split.split}")
        names = [image.name for image in split.images]
        return image_features(
            self.encoder, split.corpus, names, self.cache, patches=patches, heartbeat=self.progress.heartbeat
        )


class Task(ABC):
    """One evaluation task: planned before anything is computed, then run on one encoder after another.

    Attributes:
        name: in ``EvaluateSpec.tasks``.
    """

    name: ClassVar[str]

    @property
    def needs_patch_features(self) -> bool:
        """Does the task use frozen patch features?"""
        return False

    @classmethod
    @abstractmethod
    def plan(cls, data: EvaluationData) -> Self:
        """Read and check the task's data."""

    @abstractmethod
    def run(self, context: EvalContext) -> None:
        """Compute and store the predictions of the context's encoder."""
