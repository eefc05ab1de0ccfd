"""An evaluation run: every task to the encoder and to its untrained twin, answers stored, then scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcl_core import __version__
from lcl_core.data import open_corpus
from lcl_core.interop.identity import check_unchanged, hashes_of
from lcl_core.rundir import RunDir
from lcl_core.specs import EvaluateSpec, parse_spec
from lcl_core.transfer.cache import FeatureCache
from lcl_core.transfer.encoder import load_encoder, untrained_twin
from lcl_core.transfer.ledger import Ledger
from lcl_core.transfer.per_class import write_class_tables
from lcl_core.transfer.pictures import draw_figures
from lcl_core.transfer.progress import Progress
from lcl_core.transfer.records import Records
from lcl_core.transfer.scoring import score
from lcl_core.transfer.table import write_tables
from lcl_core.transfer.tasks import TASKS, Places, Room, Task


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
    places = Places(run["datasets"], run["encoders"], spec.exclude)
    corpus = open_corpus(places.dataset(spec.dataset))
    tasks = [TASKS[name].plan(spec, corpus, places) for name in dict.fromkeys(spec.tasks)]
    for name, files in run.get("encoder_files", {}).items():
        check_unchanged(files, hashes_of(Path(places.encoder(name))))
    encoder = load_encoder(places.encoder(spec.encoder))
    run_dir.artifacts.mkdir(parents=True, exist_ok=True)
    run_dir.truncate_metrics(-1)
    room = Room(
        spec=spec,
        corpus=corpus,
        records=Records(run_dir.artifacts / "records"),
        cache=FeatureCache(Path(run.get("cache") or run_dir.path / "cache") / "features"),
        progress=Progress(run_dir, _units(spec, tasks)),
        artifacts=run_dir.artifacts,
        choices=Ledger(run_dir.artifacts / "choice.json"),
        curves=Ledger(run_dir.artifacts / "curves.json"),
        patches=any(task.wants_patches for task in tasks),
    )
    for kept in (room.records, room.choices, room.curves):
        kept.start()
    for each in [encoder, untrained_twin(encoder)] if spec.untrained_baseline else [encoder]:
        for task in tasks:
            task.sit(room, each)
    rows = score(room.records.folder, seed=spec.seed)
    facts = {
        "encoder": spec.encoder, "encoder_hash": encoder.weights_hash, "dataset": spec.dataset,
        "dataset_hash": corpus.content_hash(), "version": __version__, "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
    }  # fmt: skip
    write_tables(run_dir.artifacts, facts, rows)
    write_class_tables(room.records.folder, room.artifacts / "classes")
    lacking = _illustrate(room) if spec.figures else None
    room.progress.finish()
    return {**facts, "rows": [row.to_dict() for row in rows], **({"figures_left_out": lacking} if lacking else {})}


def _illustrate(room: Room) -> str | None:
    """Returns: why some figures are left out, else none."""
    room.progress.enter("figures")
    folder = room.artifacts / "figures"
    return draw_figures(
        room.records.folder, room.curves.entries, room.corpus, folder, albums=room.albums, seed=room.spec.seed
    )


def _units(spec: EvaluateSpec, tasks: Sequence[Task]) -> float:
    """Work units of the whole run."""
    return sum(task.units() for task in tasks) * (2 if spec.untrained_baseline else 1)
