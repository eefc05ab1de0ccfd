"""An evaluation run: every question to the encoder and to its untrained twin, answers stored, then scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lcl_core import __version__
from lcl_core.data import Corpus, open_corpus
from lcl_core.errors import UserError
from lcl_core.rundir import RunDir
from lcl_core.specs import EvaluateSpec, parse_spec
from lcl_core.transfer import classification, retrieval
from lcl_core.transfer.cache import FeatureCache
from lcl_core.transfer.encoder import ExamEncoder, load_encoder, untrained_twin
from lcl_core.transfer.features import ImageFeatures, image_features, text_features
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.plan import PROBE_UNITS, TEXT_UNITS, Plan, make_plan
from lcl_core.transfer.progress import Progress
from lcl_core.transfer.records import Records
from lcl_core.transfer.scoring import score
from lcl_core.transfer.table import write_tables


def evaluate(run_dir: RunDir) -> dict[str, Any]:
    """Run the evaluation that ``run.json`` describes; returns its result.

    Features are cached under run.json's ``cache`` directory, else inside the run.

    Raises:
        UserError: the spec, the encoder or the corpus cannot be used.
        Cancelled: the run was told to stop; finished features stay in the cache.
    """
    run = run_dir.read_run()
    spec = parse_spec("evaluate", run["spec"])
    assert isinstance(spec, EvaluateSpec)
    corpus = open_corpus(_place(run["datasets"], spec.dataset, "dataset"))
    plan = make_plan(spec, corpus)
    encoder = load_encoder(_place(run["encoders"], spec.encoder, "encoder"))
    run_dir.artifacts.mkdir(parents=True, exist_ok=True)
    run_dir.truncate_metrics(-1)
    records = Records(run_dir.artifacts / "records")
    records.start()
    cache = FeatureCache(Path(run.get("cache") or run_dir.path / "cache") / "features")
    exam = _Exam(spec, corpus, plan, records, cache, Progress(run_dir, plan.units(spec)))
    exam.sit(encoder)
    if spec.untrained_baseline:
        exam.sit(untrained_twin(encoder))
    rows = score(records.folder, seed=spec.seed)
    facts = {
        "encoder": spec.encoder, "encoder_hash": encoder.weights_hash, "dataset": spec.dataset,
        "dataset_hash": corpus.content_hash(), "version": __version__, "seed": spec.seed,
    }  # fmt: skip
    write_tables(run_dir.artifacts, {**facts, "spec": spec.model_dump(mode="json")}, rows)
    exam.progress.finish()
    return {**facts, "rows": [row.to_dict() for row in rows]}


def _place(places: dict[str, str], name: str, kind: str) -> Path:
    """Where a registered thing lies. Raises: UserError if nothing of that name was handed in."""
    if name not in places:
        raise UserError(
            f"{kind} {name!r} is not registered; register it or choose another", code=f"unknown_{kind}", field=kind
        )
    return Path(places[name])


class _Exam:
    """The questions of a plan, for one encoder after another."""

    def __init__(
        self,
        spec: EvaluateSpec,
        corpus: Corpus,
        plan: Plan,
        records: Records,
        cache: FeatureCache,
        progress: Progress,
    ) -> None:
        self.spec = spec
        self.corpus = corpus
        self.plan = plan
        self.records = records
        self.cache = cache
        self.progress = progress

    def sit(self, encoder: ExamEncoder) -> None:
        """Ask ``encoder`` everything and store its answers."""
        features = {split: self._look(encoder, split, pictures) for split, pictures in self.plan.galleries.items()}
        for split in self.plan.variants:
            self._retrieve(encoder, split, features[split])
        if self.plan.tasks:
            train = self._look(encoder, self.spec.classification.train_split, self.plan.train)
            self._classify(encoder, train, features)

    def _look(self, encoder: ExamEncoder, split: str, pictures: list[Picture]) -> ImageFeatures:
        self.progress.enter(f"{encoder.role} encoder: pictures of {split}")
        names = [picture.image for picture in pictures]
        patches = bool(self.plan.tasks)
        return image_features(encoder, self.corpus, names, self.cache, patches=patches, advance=self.progress.add)

    def _retrieve(self, encoder: ExamEncoder, split: str, images: ImageFeatures) -> None:
        self.progress.enter(f"{encoder.role} encoder: retrieval on {split}")
        texts = self.plan.texts[split]
        features = text_features(
            encoder, texts, self.cache, advance=lambda count: self.progress.add(TEXT_UNITS * count)
        )
        row_of = {text: row for row, text in enumerate(texts)}
        for variant in self.plan.variants[split]:
            rows = np.array([row_of[text] for text in variant.texts.texts])
            retrieval.examine(
                self.records, encoder.role, split, self.plan.galleries[split], variant,
                images.pooled, features[rows],
                on_block=lambda *_: self.progress.add(0),
            )  # fmt: skip

    def _classify(self, encoder: ExamEncoder, train: ImageFeatures, tests: dict[str, ImageFeatures]) -> None:
        asked = {split: (self.plan.galleries[split], features) for split, features in tests.items()}
        for task in self.plan.tasks:
            self.progress.enter(f"{encoder.role} encoder: probe for {task.label}")
            classification.examine(
                self.records, encoder.role, task, self.spec.classification, self.spec.seed, train, asked,
                on_step=lambda count: self.progress.add(PROBE_UNITS * count),
            )  # fmt: skip
