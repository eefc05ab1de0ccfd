"""Evaluation run: plan the tasks, run them on the encoder and on its random-init baseline, score, write tables.

Predictions are stored before anything is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcl_core import __version__
from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.encoders.file_hashes import check_unchanged, hash_files
from lcl_core.evaluation.features import FeatureCache, load_evaluated_encoder, random_init_baseline
from lcl_core.evaluation.plots import make_figures
from lcl_core.evaluation.predictions import JsonLog, PredictionStore
from lcl_core.evaluation.results import score_predictions, write_class_tables, write_tables
from lcl_core.evaluation.tasks.base import DatasetResolver, EvalContext, EvalProgress, Task
from lcl_core.evaluation.tasks.captioning import Captioning
from lcl_core.evaluation.tasks.classification import Classification
from lcl_core.evaluation.tasks.dialogue import Dialogue
from lcl_core.evaluation.tasks.few_shot import FewShot
from lcl_core.evaluation.tasks.retrieval import Retrieval
from lcl_core.evaluation.tasks.tuned_retrieval import TunedRetrieval
from lcl_core.evaluation.tasks.zero_shot import ZeroShotClassification
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.parsing import parse_spec

TASKS: dict[str, type[Task]] = {
    each.name: each
    for each in (
        Retrieval,
        Classification,
        ZeroShotClassification,
        FewShot,
        TunedRetrieval,
        Captioning,
        Dialogue,
    )
}


def evaluate(run_dir: RunDir) -> dict[str, Any]:
    """Run the evaluation that ``run.json`` describes; returns its result.

    Features are cached under run.json's ``cache`` directory, else inside the run.

    Raises:
        UserError: the spec, the encoder or the corpus cannot be used; ``encoder_changed``.
        Cancelled: the run was told to stop; finished features stay in the cache.
    """
    run = run_dir.read_run()
    spec = parse_spec("evaluate", run["spec"])
    assert isinstance(spec, EvaluateSpec)
    places = DatasetResolver(run["datasets"], run["encoders"], spec.exclude)
    corpus = open_corpus(places.dataset(spec.dataset))
    tasks = [TASKS[name].plan(spec, corpus, places) for name in dict.fromkeys(spec.tasks)]
    for name, files in run.get("encoder_files", {}).items():
        check_unchanged(files, hash_files(Path(places.encoder(name))))
    encoder = load_evaluated_encoder(places.encoder(spec.encoder))
    run_dir.artifacts.mkdir(parents=True, exist_ok=True)
    run_dir.truncate_metrics(-1)
    room = EvalContext(
        spec=spec,
        corpus=corpus,
        records=PredictionStore(run_dir.artifacts / "records"),
        cache=FeatureCache(Path(run.get("cache") or run_dir.path / "cache") / "features"),
        progress=EvalProgress(run_dir, _count_steps(spec, tasks)),
        artifacts=run_dir.artifacts,
        choices=JsonLog(run_dir.artifacts / "choice.json"),
        curves=JsonLog(run_dir.artifacts / "curves.json"),
        patches=any(task.wants_patches for task in tasks),
    )
    for kept in (room.records, room.choices, room.curves):
        kept.start()
    for each in [encoder, random_init_baseline(encoder)] if spec.untrained_baseline else [encoder]:
        for task in tasks:
            task.sit(room, each)
    rows = score_predictions(room.records.folder, seed=spec.seed)
    facts = {
        "encoder": spec.encoder, "encoder_hash": encoder.weights_hash, "dataset": spec.dataset,
        "dataset_hash": corpus.content_hash(), "version": __version__, "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
    }  # fmt: skip
    write_tables(run_dir.artifacts, facts, rows)
    write_class_tables(room.records.folder, room.artifacts / "classes")
    lacking = _make_figures(room) if spec.figures else None
    room.progress.finish()
    return {**facts, "rows": [row.to_dict() for row in rows], **({"figures_left_out": lacking} if lacking else {})}


def _make_figures(room: EvalContext) -> str | None:
    """Returns: why some figures are left out, else none."""
    room.progress.enter("figures")
    folder = room.artifacts / "figures"
    return make_figures(
        room.records.folder, room.curves.entries, room.corpus, folder, albums=room.albums, seed=room.spec.seed
    )


def _count_steps(spec: EvaluateSpec, tasks: Sequence[Task]) -> float:
    """Work units of the whole run."""
    return sum(task.units() for task in tasks) * (2 if spec.untrained_baseline else 1)
