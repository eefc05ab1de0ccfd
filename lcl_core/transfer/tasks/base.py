"""A task of an examination, where it finds what it needs, and the room in which it is sat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import EvaluateSpec
from lcl_core.transfer.cache import FeatureCache
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.features import ImageFeatures, image_features
from lcl_core.transfer.gallery import Picture, read_gallery
from lcl_core.transfer.ledger import Ledger
from lcl_core.transfer.progress import Progress
from lcl_core.transfer.records import Records

TEXT_UNITS = 0.5  # rough cost of embedding a text, in embedded pictures


@dataclass
class Places:
    """Where the registered things lie, and the pictures of the splits, each split read once.

    Attributes:
        datasets, encoders: paths by the name in the spec.
        exclude: values of label keys; pictures that have one of them are in no gallery.
    """

    datasets: dict[str, str]
    encoders: dict[str, str]
    exclude: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _galleries: dict[tuple[Path, str, str | None], list[Picture]] = field(default_factory=dict)

    def dataset(self, name: str, field: str = "dataset") -> str:
        """A path or a URL. Raises: UserError ``unknown_dataset`` if nothing of that name was handed in."""
        return self._find(self.datasets, name, "dataset", field)

    def encoder(self, name: str, field: str = "encoder") -> Path:
        """Raises: UserError ``unknown_encoder`` if nothing of that name was handed in."""
        return Path(self._find(self.encoders, name, "encoder", field))

    def gallery(self, corpus: Corpus, split: str, source: str | None, *, field: str) -> list[Picture]:
        """The split's pictures, less those that are excluded.

        Raises:
            UserError: ``empty_split``, naming ``field``, or ``nothing_to_score`` if all are excluded.
        """
        key = (corpus.path, split, source)
        if key not in self._galleries:
            pictures = read_gallery(corpus, split, source, field=field)
            self._galleries[key] = [picture for picture in pictures if not self._excluded(picture)]
        if not self._galleries[key]:
            raise UserError(
                f"every picture of split {split!r} is excluded; exclude fewer labels",
                code="nothing_to_score", field="exclude",
            )  # fmt: skip
        return self._galleries[key]

    def tested(self, spec: EvaluateSpec, corpus: Corpus) -> dict[str, list[Picture]]:
        """The pictures of each split that is asked about."""
        return {
            split: self.gallery(corpus, split, spec.source, field=f"splits.{spec.splits.index(split)}")
            for split in dict.fromkeys(spec.splits)
        }

    def _excluded(self, picture: Picture) -> bool:
        return any(picture.labels.get(label) in values for label, values in self.exclude.items())

    @staticmethod
    def _find(known: dict[str, str], name: str, kind: str, field: str) -> str:
        if name not in known:
            raise UserError(
                f"{kind} {name!r} is not registered; register it or choose another", code=f"unknown_{kind}", field=field
            )
        return known[name]


@dataclass(frozen=True)
class Room:
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
    records: Records
    cache: FeatureCache
    progress: Progress
    artifacts: Path
    choices: Ledger
    curves: Ledger
    patches: bool
    albums: dict[str, Corpus] = field(default_factory=dict)
    _seen: dict[tuple[str, Path, tuple[str, ...]], ImageFeatures] = field(default_factory=dict)

    def look(
        self, encoder: ExamEncoder, split: str, pictures: list[Picture], corpus: Corpus | None = None
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
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
        """Read and check everything that will be asked.

        Raises:
            UserError: what cannot be asked, naming the spec's field.
        """

    @abstractmethod
    def units(self) -> float:
        """Rough work for one encoder, in embedded pictures; only the time-left figure depends on it."""

    @abstractmethod
    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        """Ask ``encoder`` everything and store its answers.

        Raises:
            UserError: the encoder cannot be asked.
            Cancelled: the run was told to stop.
        """
