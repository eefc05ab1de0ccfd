"""``python -m lcl_core.data.conversion RUN_DIR``: convert a corpus to shards among the artifacts, with statistics.

What tags leave out is listed in the quarantine; ``hold_out`` of the spec takes an exam out of the documents. The match
run uses these functions.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any, cast

from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import JobProgress, RunDir, run_main
from lcl_core.data.corpus.open import count_items, open_source, part_source
from lcl_core.data.hold_out import plan_exam, split_off_exam
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards.convert import RecordTransform, convert_parts
from lcl_core.data.shards.sharded_corpus import ShardedRecords, record_location
from lcl_core.parts import PartSource, Section
from lcl_core.specs.corpus_jobs import ConvertSpec, WriteSpec
from lcl_core.specs.parsing import parse_spec

LEFT_OUT_BY_TAGS = "left out by tags"  # reason in the quarantine


class SelectedItems:
    """A source without the records that a selection leaves out: each becomes a BadItem, so that none is renumbered.

    Args:
        source: of a registered dataset: shards, or files in the project's own form.
        only: locations of the records to keep; None: all.
        without: locations of records to leave out.
    """

    def __init__(
        self, source: PartSource[Record | BadItem], only: Collection[str] | None, without: Collection[str]
    ) -> None:
        self._source = source
        self._only, self._without = None if only is None else frozenset(only), frozenset(without)

    def sections(self) -> Sequence[Section]:
        return self._source.sections()

    def count_section(self, key: str) -> int:
        return self._source.count_section(key)

    def read_section(self, key: str, start: int = 0) -> Iterator[Record | BadItem]:
        sharded = isinstance(self._source, ShardedRecords)  # whose one section has the records by their numbers
        for number, item in enumerate(self._source.read_section(key, start), start):
            if isinstance(item, BadItem):
                yield item
                continue
            location = record_location(number) if sharded else item.id
            if location in self._without or (self._only is not None and location not in self._only):
                file, _, line = ("", "", "0") if sharded else location.rpartition(":")
                yield BadItem(file or location, int(line), LEFT_OUT_BY_TAGS, f"record {item.id}")
            else:
                yield item


def convert_run(run_dir: RunDir) -> dict[str, Any]:
    """Run ``run.json``: write ``artifacts/dataset``, or shards at the URL that the spec names.

    Raises:
        UserError: bad spec; a corpus that cannot be read at all; ``no_data``; a URL that cannot be written.
        JobCancelled: after SIGTERM; the next attempt continues.
    """
    run = run_dir.read_run()
    spec = cast(ConvertSpec, parse_spec("convert", run["spec"]))
    return write_dataset(run_dir, spec, "converting", processes=spec.processes)


def write_dataset(
    run_dir: RunDir, spec: WriteSpec, phase: str, change: RecordTransform = iter, processes: int = 1, **settings: Any
) -> dict[str, Any]:
    """The result of a run that converts. An earlier attempt at the same is continued.

    Args:
        change: sees the records of each part on their way.
        settings: JSON values that decide what ``change`` does, beside the spec.
    """
    run = run_dir.read_run()
    source = open_source(spec, run.get("datasets", {}), run.get("roots"))
    total, progress = count_items(source), JobProgress(run_dir, phase)
    records = part_source(source)
    if items := run.get("items"):
        records = SelectedItems(records, items["only"], items["without"])
        settings["items"] = hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()
    held_out = {}
    if isinstance(spec, ConvertSpec) and spec.hold_out:
        plan = run_dir.checkpoints / "exam.json"
        if not plan.exists():  # of an earlier attempt
            items_of_all = chain.from_iterable(records.read_section(section.key) for section in records.sections())
            surveying = JobProgress(run_dir, "choosing the exam")
            chosen = plan_exam(items_of_all, spec.hold_out, lambda done: surveying(done, total))
            write_json_atomically(plan, chosen)
        change, held_out = partial(split_off_exam, plan), {"hold_out": json.loads(plan.read_text())["report"]}
    report = convert_parts(
        records,
        spec.to or run_dir.artifacts / "dataset",
        run_dir.checkpoints / "parts",
        spec.shard_megabytes << 20,
        processes=processes,
        change=change,
        settings=settings | spec.model_dump(mode="json", exclude={"processes", "timeout_seconds"}),
        on_progress=lambda done: progress(done, total),
    )
    if report.resumed:
        print(f"{report.resumed:,} items were converted by earlier attempts")  # noqa: T201 - the run's log
    dataset = asdict(report) | {"name": spec.name, "path": spec.to or "artifacts/dataset"}
    del dataset["resumed"]  # of this attempt
    hashes = {"dataset_hash": source.content_hash()} if spec.dataset is not None else {}
    return {"dataset": dataset, "skipped": report.quarantined, **held_out, **hashes}


if __name__ == "__main__":
    sys.exit(run_main(convert_run))
