"""Evaluation task and its context: images of a split with captions and labels, dataset paths, features, progress."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.data import CaptionPair, Corpus
from lcl_core.evaluation.features import EvaluatedEncoder, FeatureCache, ImageFeatures, image_features
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.predictions import JsonLog, PredictionStore
from lcl_core.specs.evaluate import ClassificationSpec, EvaluateSpec


@dataclass(frozen=True)
class EvalImage:
    """One picture with all its captions and labels, also when the corpus gives it a line for each caption."""

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    source: str = ""


@dataclass(frozen=True)
class UniqueTexts:
    """Captions of a gallery.

    Attributes:
        texts: [M] texts, each once, in the order of their first picture.
        pairs: [P, 2] (picture row, text row), each pair once.
    """

    texts: tuple[str, ...]
    pairs: Ints


def read_images(corpus: Corpus, split: str, source: str | None, *, field: str) -> list[EvalImage]:
    """The split's pictures.

    Raises:
        UserError: ``empty_split``, if there are none (``field`` is the spec's field that named the split).
    """
    pictures = group_captions_by_image(corpus.pairs(split, source=source))
    if not pictures:
        of_source = f" of source {source!r}" if source else ""
        known = ", ".join(sorted(corpus.splits())) or "none"
        raise UserError(
            f"split {split!r} has no captioned images{of_source}; the corpus has splits: {known}",
            code="empty_split", field=field,
        )  # fmt: skip
    return pictures


def group_captions_by_image(pairs: Iterable[CaptionPair]) -> list[EvalImage]:
    """One Picture an image name, captions in the order of the lines; a label's first value counts."""
    found: dict[str, EvalImage] = {}
    for pair in pairs:
        old = found.get(pair.image, EvalImage(pair.image, (), {}, pair.source))
        captions, labels = old.captions + tuple(pair.captions), {**pair.labels, **old.labels}
        found[pair.image] = EvalImage(pair.image, captions, labels, old.source)
    return list(found.values())


def unique_texts(pictures: list[EvalImage], position: int | None) -> UniqueTexts:
    """The captions at one position (0 is the first; none: all captions).

    Equal captions of different pictures, the case of letters and runs of spaces aside, are one text with
    several right pictures: no text tower could tell them apart.
    """
    row_of: dict[str, int] = {}
    texts: list[str] = []
    pairs = []
    for picture_row, picture in enumerate(pictures):
        for caption in picture.captions if position is None else picture.captions[position : position + 1]:
            key = normalized_text(caption)
            if not key:
                continue
            if key not in row_of:
                row_of[key] = len(texts)
                texts.append(caption)
            pairs.append((picture_row, row_of[key]))
    return UniqueTexts(tuple(texts), np.unique(np.array(pairs, np.int64).reshape(-1, 2), axis=0))


def normalized_text(caption: str) -> str:
    """What a caption says, the case of letters and runs of spaces aside; empty for one that says nothing."""
    return " ".join(caption.split()).casefold()


@dataclass(frozen=True)
class LabeledImages:
    """Pictures of a split that carry a label that can be known.

    Attributes:
        rows: [Q] their rows in the split.
        classes: [Q] their classes.
        left_out: pictures not asked about: ``unlabelled``, and ``unseen`` (their class is not in training).
    """

    rows: Ints
    classes: Ints
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def choose(self, picks: Ints) -> LabeledImages:
        """Those at ``picks``, in that order."""
        return LabeledImages(self.rows[picks], self.classes[picks], self.left_out)


@dataclass(frozen=True)
class LabelKey:
    """One label key: its classes (in alphabetical order, by number), who teaches and who is asked."""

    label: str
    classes: tuple[str, ...]
    train: LabeledImages
    tests: dict[str, LabeledImages]

    @property
    def train_counts(self) -> dict[str, int]:
        counts = np.bincount(self.train.classes, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


def plan_label_key(
    label: str, train_split: str, train: list[EvalImage], tests: dict[str, list[EvalImage]], *, field: str
) -> LabelKey:
    """Number the classes and pick the pictures.

    A closed set, as in the field: the classes are those of the train split, and a test picture of any other
    class is left out and counted, since no answer to it could be right.

    Args:
        field: the spec's field that names the label.

    Raises:
        UserError: ``label_unknown`` if no training picture has the label, ``nothing_to_score`` if a test
            split has no picture of a known class.
    """
    classes = classes_of(label, train_split, train, field=field)
    asked = {split: select_labeled(pictures, label, classes) for split, pictures in tests.items()}
    for split, found in asked.items():
        if not len(found):
            raise UserError(
                f"no picture of split {split!r} has a {label!r} that split {train_split!r} teaches "
                f"({found.left_out}); leave the label or the split out",
                code="nothing_to_score", field=field,
            )  # fmt: skip
    return LabelKey(label, classes, select_labeled(train, label, classes), asked)


def classes_of(label: str, split: str, pictures: list[EvalImage], *, field: str) -> tuple[str, ...]:
    """The split's different values of a label, in alphabetical order.

    Raises:
        UserError: ``label_unknown`` if there are fewer than two.
    """
    classes = tuple(sorted({picture.labels[label] for picture in pictures if label in picture.labels}))
    if len(classes) < 2:
        known = ", ".join(sorted({key for picture in pictures for key in picture.labels})) or "none"
        raise UserError(
            f"label {label!r} has {len(classes)} classes in split {split!r}; it takes two; "
            f"the split's labels: {known}",
            code="label_unknown", field=field,
        )  # fmt: skip
    return classes


def select_labeled(pictures: list[EvalImage], label: str, classes: tuple[str, ...]) -> LabeledImages:
    """The pictures whose ``label`` is one of ``classes``."""
    number = {name: place for place, name in enumerate(classes)}
    given = [picture.labels.get(label) for picture in pictures]
    known = [(row, number[name]) for row, name in enumerate(given) if name in number]
    reasons = Counter("unlabelled" if name is None else "unseen" for name in given if name not in number)
    rows, numbers = np.array(known, np.int64).reshape(-1, 2).T
    return LabeledImages(rows, numbers, dict(reasons))


_SECONDS_BETWEEN = 0.5


class EvalProgress:
    """Counts work units (an embedded picture is one) and honours a stop request between them.

    Args:
        total: units in the whole run, known before it starts.
        clock: seconds; monotonic.
    """

    def __init__(self, run_dir: RunDir, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_dir = run_dir
        self._total = total
        self._clock = clock
        self._started = clock()
        self._written = self._started
        self._done = 0.0
        self._phase = ""

    def enter(self, phase: str) -> None:
        """Name what comes next, and write it down at once."""
        self._phase = phase
        self._write()

    def add(self, units: float) -> None:
        """Count ``units``. Raises: Cancelled if the run was told to stop."""
        self._run_dir.raise_if_stopped()
        self._done += units
        if self._clock() - self._written >= _SECONDS_BETWEEN:
            self._write()

    def finish(self) -> None:
        self._done = self._total
        self.enter("done")

    def _write(self) -> None:
        self._run_dir.raise_if_stopped()
        now = self._written = self._clock()
        left = (now - self._started) * (self._total / self._done - 1) if self._done else None
        known = {} if left is None else {"seconds_left": round(max(left, 0.0), 1)}
        self._run_dir.append_metrics(step=round(self._done), total_steps=round(self._total), phase=self._phase, **known)


TEXT_COST = 0.5  # rough cost of embedding a text, in embedded pictures


@dataclass
class DatasetResolver:
    """Where the registered things lie, and the pictures of the splits, each split read once.

    Attributes:
        datasets, encoders: paths by the name in the spec.
        exclude: values of label keys; pictures that have one of them are in no gallery.
    """

    datasets: dict[str, str]
    encoders: dict[str, str]
    exclude: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _galleries: dict[tuple[Path, str, str | None], list[EvalImage]] = field(default_factory=dict)

    def dataset(self, name: str, field: str = "dataset") -> str:
        """A path or a URL. Raises: UserError ``unknown_dataset`` if nothing of that name was handed in."""
        return self._find(self.datasets, name, "dataset", field)

    def encoder(self, name: str, field: str = "encoder") -> Path:
        """Raises: UserError ``unknown_encoder`` if nothing of that name was handed in."""
        return Path(self._find(self.encoders, name, "encoder", field))

    def gallery(self, corpus: Corpus, split: str, source: str | None, *, field: str) -> list[EvalImage]:
        """The split's pictures, less those that are excluded.

        Raises:
            UserError: ``empty_split``, naming ``field``, or ``nothing_to_score`` if all are excluded.
        """
        key = (corpus.path, split, source)
        if key not in self._galleries:
            pictures = read_images(corpus, split, source, field=field)
            self._galleries[key] = [picture for picture in pictures if not self._excluded(picture)]
        if not self._galleries[key]:
            raise UserError(
                f"every picture of split {split!r} is excluded; exclude fewer labels",
                code="nothing_to_score", field="exclude",
            )  # fmt: skip
        return self._galleries[key]

    def tested(self, spec: EvaluateSpec, corpus: Corpus) -> dict[str, list[EvalImage]]:
        """The pictures of each split that is asked about."""
        return {
            split: self.gallery(corpus, split, spec.source, field=f"splits.{spec.splits.index(split)}")
            for split in dict.fromkeys(spec.splits)
        }

    def _excluded(self, picture: EvalImage) -> bool:
        return any(picture.labels.get(label) in values for label, values in self.exclude.items())

    @staticmethod
    def _find(known: dict[str, str], name: str, kind: str, field: str) -> str:
        if name not in known:
            raise UserError(
                f"{kind} {name!r} is not registered; register it or choose another", code=f"unknown_{kind}", field=field
            )
        return known[name]


@dataclass(frozen=True)
class EvalContext:
    """What a task has at hand while it is sat.

    Attributes:
        artifacts: folder for what a task leaves beside its answers.
        choices: hyper-parameters that were tried and chosen.
        curves: losses while something was learnt.
        albums: where pictures lie that are not the corpus's, by the ``album`` in the facts of their sheets.
        patches: some task of the run wants patch features, so they are computed along with the pooled latents.
    """

    spec: EvaluateSpec
    corpus: Corpus
    records: PredictionStore
    cache: FeatureCache
    progress: EvalProgress
    artifacts: Path
    choices: JsonLog
    curves: JsonLog
    patches: bool
    albums: dict[str, Corpus] = field(default_factory=dict)
    _seen: dict[tuple[str, Path, tuple[str, ...]], ImageFeatures] = field(default_factory=dict)

    def look(
        self, encoder: EvaluatedEncoder, split: str, pictures: list[EvalImage], corpus: Corpus | None = None
    ) -> ImageFeatures:
        """Frozen features of a split's pictures, from the cache where they were made before.

        Args:
            corpus: where the pictures lie; none: in the examined one.
        """
        held = corpus or self.corpus
        names = tuple(picture.image for picture in pictures)
        key = (encoder.weights_hash, held.path, names)
        if key not in self._seen:
            self.progress.enter(f"{encoder.role} encoder: pictures of {split}")
            self._seen[key] = image_features(
                encoder, held, names, self.cache, patches=self.patches, advance=self.progress.add
            )
        return self._seen[key]


class Task(ABC):
    """One kind of question. It is planned before anything is computed, then sat by one encoder after another.

    Attributes:
        name: in ``EvaluateSpec.tasks``.
    """

    name: ClassVar[str]

    @property
    def wants_patches(self) -> bool:
        """Does it ask for frozen patch features?"""
        return False

    @classmethod
    @abstractmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver) -> Self:
        """Read and check everything that will be asked.

        Raises:
            UserError: what cannot be asked, naming the spec's field.
        """

    @abstractmethod
    def units(self) -> float:
        """Rough work for one encoder, in embedded pictures; only the time-left figure depends on it."""

    @abstractmethod
    def sit(self, room: EvalContext, encoder: EvaluatedEncoder) -> None:
        """Ask ``encoder`` everything and store its answers.

        Raises:
            UserError: the encoder cannot be asked.
            Cancelled: the run was told to stop.
        """


VALIDATION_SHARE = 0.1  # of the training pictures, where no split is named


@dataclass(frozen=True)
class Holdout:
    """Who is asked while hyper-parameters are chosen, and who teaches meanwhile.

    Attributes:
        split: where the pictures come from.
        pictures: of that split.
        asked: those of them that are held out.
        teachers: rows of the training pictures that are not.
    """

    split: str
    pictures: list[EvalImage]
    asked: LabeledImages
    teachers: LabeledImages

    def taught_by(self, teachers: LabeledImages) -> Holdout:
        """The same pictures, asked after learning from others."""
        return replace(self, teachers=teachers)


def plan_holdout(
    own: ClassificationSpec,
    spec: EvaluateSpec,
    corpus: Corpus,
    places: DatasetResolver,
    key: LabelKey,
    *,
    train: list[EvalImage],
    field: str,
) -> Holdout | None:
    """None where there is nothing to choose.

    Raises:
        UserError: ``validation_split_used`` or ``nothing_to_score``, when the validation split is tested or learnt
            from, or has no picture of a known class.
    """
    if not own.search:
        return None
    if own.validation_split is None:
        held, taught = hold_out(key.train, spec.seed)
        return Holdout(own.train_split, train, held, taught)
    return _holdout_of_split(own.validation_split, own.train_split, spec, corpus, places, key, field)


def hold_out(teachers: LabeledImages, seed: int) -> tuple[LabeledImages, LabeledImages]:
    """A seeded tenth, at least one picture, and the rest."""
    held, taught = split_validation(len(teachers), seed)
    return teachers.choose(held), teachers.choose(taught)


def split_validation(count: int, seed: int) -> tuple[Ints, Ints]:
    """A seeded tenth of the numbers below ``count``, at least one, and the others; both ascending."""
    order = np.random.default_rng(seed).permutation(count)
    held = max(1, round(VALIDATION_SHARE * count))
    return np.sort(order[:held]), np.sort(order[held:])


def _holdout_of_split(
    split: str, train_split: str, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver, key: LabelKey, field: str
) -> Holdout:
    pictures = validation_images(split, train_split, spec, corpus, places, field=field)
    asked = select_labeled(pictures, key.label, key.classes)
    if not len(asked):
        raise UserError(
            f"no picture of split {split!r} has a {key.label!r} that split {train_split!r} teaches",
            code="nothing_to_score", field=f"{field}.validation_split",
        )  # fmt: skip
    return Holdout(split, pictures, asked, key.train)


def validation_images(
    split: str, train_split: str, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver, *, field: str
) -> list[EvalImage]:
    """The pictures of a split of ``corpus`` that hyper-parameters may be chosen on.

    Raises:
        UserError: ``validation_split_used``, or the split is empty.
    """
    if split in spec.splits or split == train_split:
        use = "examined" if split in spec.splits else "learnt from"
        raise UserError(
            f"split {split!r} is {use}, so nothing may be chosen on it; name another in {field}.validation_split, or "
            "none for a tenth of the training pictures",
            code="validation_split_used", field=f"{field}.validation_split",
        )  # fmt: skip
    return places.gallery(corpus, split, spec.source, field=f"{field}.validation_split")
