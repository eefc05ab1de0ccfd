"""``python -m lcl_core.data.conversion RUN_DIR``: convert a corpus to shards among the artifacts, with statistics.

The match run uses its functions.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, cast

from lcl_core.common.run_dir import JobProgress, RunDir, run_main
from lcl_core.data.corpus.open import open_source
from lcl_core.data.formats import open_reader
from lcl_core.data.records import BadItem, CaptionedImage, MatchedDocument, Record, TextSegment
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.sharded_corpus import ShardedCorpus, read_shard_records
from lcl_core.data.shards.writer import STAGING_PREFIX
from lcl_core.data.validation.check import ReadableCorpus, count_items
from lcl_core.specs.corpus_jobs import ConvertSpec
from lcl_core.specs.parsing import parse_spec

TOP_VALUES = 20
MAX_DISTINCT_VALUES = 100_000  # different values of a label that are counted separately


def read_records(source: Any) -> Iterable[Record | BadItem]:
    """Of an open corpus, or of a reader."""
    if isinstance(source, ShardedCorpus):
        return read_shard_records(source)
    if isinstance(source, ReadableCorpus):
        return open_reader(source.path, "native").records()
    return source.records()


class ConversionStatistics:
    """Counts of records that pass through ``counted``, in the form of a dataset's statistics."""

    def __init__(self) -> None:
        self._counts = Counter(documents=0, sentences=0, pairs=0, captions=0, images=0)
        self._splits: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._labels: dict[str, Counter[str]] = {}

    def counted(self, records: Iterable[Record | BadItem]) -> Iterator[Record | BadItem]:
        for record in records:
            if isinstance(record, Record):
                self._count(record)
            yield record

    def to_json(self) -> dict[str, Any]:
        labels = {
            name: {"values": len(counts), "most_common": dict(counts.most_common(TOP_VALUES))}
            for name, counts in self._labels.items()
        }
        return {**self._counts, "splits": dict(self._splits), "sources": self._largest_sources(), "labels": labels}

    def _largest_sources(self) -> dict[str, int]:
        """The largest sources: there may be one a web site."""
        return dict(self._sources.most_common(TOP_VALUES))

    def _count(self, record: Record) -> None:
        body = record.body
        self._counts["images"] += len(record.images)
        if isinstance(body, CaptionedImage):
            self._counts["pairs"] += 1
            self._counts["captions"] += len(body.captions)
            self._splits[record.split] += 1
            if record.source in self._sources or len(self._sources) < MAX_DISTINCT_VALUES:
                self._sources[record.source] += 1
            self._count_labels(body)
            return
        self._counts["documents"] += 1
        texts = body.sentences if isinstance(body, MatchedDocument) else body.segments
        self._counts["sentences"] += sum(isinstance(text, str | TextSegment) for text in texts)

    def _count_labels(self, pair: CaptionedImage) -> None:
        for name, value in pair.labels.items():
            counts = self._labels.setdefault(name, Counter())
            if value in counts or len(counts) < MAX_DISTINCT_VALUES:
                counts[value] += 1


Records = Iterable[Record | BadItem]
RecordTransform = Callable[[Records], Iterator[Record | BadItem]]


def convert_run(run_dir: RunDir) -> dict[str, Any]:
    """Run ``run.json``: write ``artifacts/dataset``, or shards at the URL that the spec names.

    Raises:
        UserError: bad spec; a corpus that cannot be read at all; ``nothing_converted``; a URL that cannot be written.
        Cancelled: after SIGTERM; nothing half-written stays.
    """
    run = run_dir.read_run()
    return write_dataset(run_dir, cast(ConvertSpec, parse_spec("convert", run["spec"])), "converting")


def write_dataset(run_dir: RunDir, spec: ConvertSpec, phase: str, change: RecordTransform = iter) -> dict[str, Any]:
    """The result of a run that converts; ``change`` sees all records on their way."""
    run = run_dir.read_run()
    source = open_source(spec, run.get("datasets", {}), run.get("roots"))
    target = run_dir.artifacts / "dataset"
    # what an earlier attempt left: a conversion starts from its beginning
    for leftover in (target, *run_dir.path.glob(f"{STAGING_PREFIX}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    total = count_items(source)
    progress, figures = JobProgress(run_dir, phase), ConversionStatistics()
    report = convert(
        figures.counted(change(read_records(source))),
        spec.to or target,
        shard_bytes=spec.shard_megabytes << 20,
        on_progress=lambda done, _: progress(done, total),
        owner=run["run_id"],
        scratch=run_dir.path,
        allow_empty=False,
    )
    dataset = asdict(report) | {"name": spec.name, "statistics": figures.to_json()}
    dataset["path"] = spec.to or "artifacts/dataset"
    hashes = {"dataset_hash": source.content_hash()} if spec.dataset is not None else {}
    return {"dataset": dataset, "skipped": report.quarantined, **hashes}


if __name__ == "__main__":
    sys.exit(run_main(convert_run))
