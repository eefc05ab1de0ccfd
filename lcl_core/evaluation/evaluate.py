"""Evaluation run: plan the tasks, run them on the encoder and on its random-init baseline, score, write tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lcl_core import __version__
from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import RunDir
from lcl_core.encoders.files import check_unchanged, hash_files
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.features import EvaluatedEncoder, FeatureCache
from lcl_core.evaluation.plots import make_figures
from lcl_core.evaluation.results import PredictionStore, score_predictions, write_tables
from lcl_core.evaluation.tasks.base import EvalContext, EvalProgress, EvaluationData, Task
from lcl_core.evaluation.tasks.captioning import Captioning
from lcl_core.evaluation.tasks.classification import Classification
from lcl_core.evaluation.tasks.dialogue import Dialogue
from lcl_core.evaluation.tasks.retrieval import Retrieval, TunedRetrieval
from lcl_core.evaluation.tasks.zero_shot import ZeroShotClassification
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.parsing import parse_spec

_TASK_CLASSES: tuple[type[Task], ...] = (
    Retrieval, Classification, ZeroShotClassification, TunedRetrieval, Captioning, Dialogue,
)  # fmt: skip
TASKS = {each.name: each for each in _TASK_CLASSES}


def evaluate(run_dir: RunDir) -> dict[str, Any]:
    """Run the evaluation that ``run.json`` describes; returns its result.

    Features are cached under run.json's ``cache`` directory, else inside the run.
    """
    run = run_dir.read_run()
    spec = parse_spec("evaluate", run["spec"])
    assert isinstance(spec, EvaluateSpec)
    run_dir.truncate_metrics(-1)
    progress = EvalProgress(run_dir)
    progress.enter("reading the splits")
    data = EvaluationData(spec, run["datasets"], run["encoders"], progress.heartbeat)
    tasks = [TASKS[name].plan(data) for name in dict.fromkeys(spec.tasks)]
    for name, files in run.get("encoder_files", {}).items():
        check_unchanged(files, hash_files(data.encoder(name)))
    encoder = EvaluatedEncoder("trained", load_image_encoder(data.encoder(spec.encoder)))
    encoders = [encoder]
    if spec.untrained_baseline:
        encoders.append(EvaluatedEncoder("untrained", encoder.model.random_init()))
    run_dir.artifacts.mkdir(parents=True, exist_ok=True)
    progress.start(len(encoders) * len(tasks))
    context = EvalContext(
        spec=spec,
        encoder=encoder,
        predictions=PredictionStore(run_dir.artifacts / "records"),
        cache=FeatureCache(Path(run.get("cache") or run_dir.path / "cache") / "features"),
        progress=progress,
        artifacts=run_dir.artifacts,
        needs_patch_features=any(task.needs_patch_features for task in tasks),
    )
    context.predictions.start()
    for each in encoders:
        for task in tasks:
            task.run(replace(context, encoder=each))
            progress.task_done()
    for name, entries in (("choice.json", context.choices), ("curves.json", context.curves)):
        (run_dir.artifacts / name).unlink(missing_ok=True)  # of an earlier attempt
        if entries:
            write_json_atomically(run_dir.artifacts / name, entries)
    rows = score_predictions(context.predictions.folder, seed=spec.seed)
    facts = {
        "encoder": spec.encoder, "encoder_hash": encoder.weights_hash, "dataset": spec.dataset,
        "dataset_hash": data.corpus.content_hash(), "version": __version__, "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
    }  # fmt: skip
    write_tables(context.artifacts, facts, rows)
    result = {**facts, "rows": rows}
    if spec.figures:
        progress.enter("figures")
        records, folder = context.predictions.folder, context.artifacts / "figures"
        if left_out := make_figures(records, context.curves, data.corpus, folder, seed=spec.seed):
            result["figures_left_out"] = left_out
    progress.enter("done")
    return result
