"""What convert and match runs share: records in, shards among the artifacts out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, cast

from lcl_core.data.conversion.records import Figures, records_of
from lcl_core.data.opening import open_source
from lcl_core.data.progress import Progress
from lcl_core.data.record import BadItem, Record
from lcl_core.data.shards import convert
from lcl_core.data.shards.targets import SCRATCH
from lcl_core.data.validation.walk import length_of
from lcl_core.rundir import RunDir
from lcl_core.specs import ConvertSpec, parse_spec

Records = Iterable[Record | BadItem]
Change = Callable[[Records], Iterator[Record | BadItem]]


def convert_run(run_dir: RunDir) -> dict[str, Any]:
    """Do what ``run.json`` asks; leaves ``artifacts/dataset``, or the shards at the URL that the spec names.

    Raises:
        UserError: bad spec; a corpus that cannot be read at all; ``nothing_converted``; a URL that cannot be written.
        Cancelled: after SIGTERM; nothing half-written stays.
    """
    run = run_dir.read_run()
    return write_dataset(run_dir, cast(ConvertSpec, parse_spec("convert", run["spec"])), "converting")


def write_dataset(run_dir: RunDir, spec: ConvertSpec, phase: str, change: Change = iter) -> dict[str, Any]:
    """The result of a run that converts; ``change`` sees all records on their way."""
    run = run_dir.read_run()
    source = open_source(spec, run.get("datasets", {}), run.get("roots"))
    place = run_dir.artifacts / "dataset"
    # what an earlier attempt left: a conversion starts from its beginning
    for left in (place, *run_dir.path.glob(f"{SCRATCH}*")):
        shutil.rmtree(left, ignore_errors=True)
    total = length_of(source)
    progress, figures = Progress(run_dir, phase), Figures()
    report = convert(
        figures.counted(change(records_of(source))),
        spec.to or place,
        shard_bytes=spec.shard_megabytes << 20,
        on_progress=lambda done, _: progress(done, total),
        owner=run["run_id"],
        scratch=run_dir.path,
        allow_empty=False,
    )
    facts = asdict(report) | {"name": spec.name, "statistics": figures.to_json()}
    facts["path"] = spec.to or "artifacts/dataset"
    read = {"dataset_hash": source.content_hash()} if spec.dataset is not None else {}
    return {"dataset": facts, "skipped": report.quarantined, **read}
