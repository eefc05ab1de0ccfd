"""``python -m lcl_core.data.validation RUN_DIR``: validate a corpus as ``RUN_DIR/run.json`` says."""

from __future__ import annotations

import sys
from typing import Any, cast

from lcl_core.common.files import write_json_atomically
from lcl_core.common.processes import usable_cores
from lcl_core.common.run_dir import JobProgress, RunDir, run_main
from lcl_core.data.corpus.open import count_items, open_source
from lcl_core.data.jsonl import to_json_safe
from lcl_core.data.tokenizer import clip_tokenizer
from lcl_core.data.validation.validate import MAX_WORKERS, validate
from lcl_core.specs.corpus_jobs import ValidateSpec
from lcl_core.specs.parsing import parse_spec


def validate_run(run_dir: RunDir) -> dict[str, Any]:
    """Run ``run.json``: write ``report.json`` and ``quarantine.jsonl`` as artifacts.

    Raises:
        UserError: bad spec, or a corpus that cannot be read at all.
        JobCancelled: after SIGTERM; the next attempt continues.
    """
    run = run_dir.read_run()
    spec = cast(ValidateSpec, parse_spec("validate", run["spec"]))
    source = open_source(spec, run.get("datasets", {}), run.get("roots"))
    total, progress = count_items(source), JobProgress(run_dir, "examining")
    report = validate(
        source,
        run_dir.checkpoints / "parts",
        processes=min(usable_cores(), MAX_WORKERS) if spec.workers is None else max(1, spec.workers),
        similarity_threshold=spec.similarity_threshold,
        tokenizer=clip_tokenizer() if spec.tokens else None,
        quarantine=run_dir.artifacts / "quarantine.jsonl",
        on_progress=lambda done: progress(done, total),
    )
    values = to_json_safe(report.model_dump(mode="json"))  # names of files may have bytes that are no text
    write_json_atomically(run_dir.artifacts / "report.json", values)
    hashes = {"dataset_hash": source.content_hash()} if spec.dataset is not None else {}
    return {"report": values, **hashes}


if __name__ == "__main__":
    sys.exit(run_main(validate_run))
