"""The validate run: a report, its pictures and the quarantine list among the artifacts."""

from __future__ import annotations

import sys
from typing import Any, cast

from lcl_core.data.opening import open_source
from lcl_core.data.progress import Progress
from lcl_core.data.tokenizer import clip_tokenizer
from lcl_core.data.validation.limits import Limits
from lcl_core.data.validation.pictures import draw_pictures
from lcl_core.data.validation.report import Report
from lcl_core.data.validation.validate import validate
from lcl_core.errors import UserError
from lcl_core.rundir import RunDir, write_json_atomically
from lcl_core.specs import ValidateSpec, parse_spec


def validate_run(run_dir: RunDir) -> dict[str, Any]:
    """Do what ``run.json`` asks; leaves ``report.json``, ``quarantine.jsonl`` and ``pictures/`` as artifacts.

    Raises:
        UserError: bad spec, or a corpus that cannot be read at all.
        Cancelled: after SIGTERM.
    """
    run = run_dir.read_run()
    spec = cast(ValidateSpec, parse_spec("validate", run["spec"]))
    source = open_source(spec, run.get("datasets", {}), run.get("roots"))
    limits = Limits(similarity_threshold=spec.similarity_threshold, min_image_side=spec.min_image_side)
    report = validate(
        source,
        workers=spec.workers,
        on_progress=Progress(run_dir, "examining"),
        limits=limits,
        tokenizer=clip_tokenizer() if spec.tokens else None,
        quarantine=run_dir.artifacts / "quarantine.jsonl",
    )
    facts = report.model_dump(mode="json")
    write_json_atomically(run_dir.artifacts / "report.json", facts)
    result = {"report": facts, "pictures": _draw(report, run_dir)}
    return result | ({"dataset_hash": source.content_hash()} if spec.dataset is not None else {})


def _draw(report: Report, run_dir: RunDir) -> list[str]:
    """Names of the artifacts. Hours of reading are not thrown away because a library is missing."""
    try:
        return [f"pictures/{name}" for name in draw_pictures(report, run_dir.artifacts / "pictures")]
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the run's log
        return []
