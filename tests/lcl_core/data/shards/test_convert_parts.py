"""Conversion in parts: the bytes of a conversion in one go, whoever converts the parts, and whatever is killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.run_dir import JobCancelled
from lcl_core.data import open_corpus
from lcl_core.data.records import BadItem, Record, RecordImage
from lcl_core.data.shards.convert import convert, convert_parts
from lcl_core.data.shards.sharded_corpus import ShardedCorpus, ShardedRecords, read_shard_records
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.parts import LOG_FILE
from tests.lcl_core.data.shards.conftest import Make
from tests.lcl_core.data.shards.part_sources import (
    LENGTHS,
    PART_ITEMS,
    SHARD_BYTES,
    NumberedSource,
    ShuffledRunner,
    contents,
    convert_numbered,
)

ROOT = Path(__file__).parents[4]
ITEMS = sum(LENGTHS.values())


def in_parts(source, folder, part_items, **options):
    return convert_parts(source, folder / "made", folder / "work", SHARD_BYTES, part_items=part_items, **options)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of a conversion by one process."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_parts(NumberedSource(LENGTHS), folder, PART_ITEMS).shards > 30
    return contents(folder / "made")


@pytest.mark.parametrize(("processes", "seed"), [(1, 0), (3, 0), (4, 1), (4, 2)])
def test_the_bytes_do_not_depend_on_who_converts_which_part_when(tmp_path, expected, processes, seed):
    runner = partial(ShuffledRunner, processes=processes, seed=seed) if processes > 1 else None
    done = []
    report = in_parts(
        NumberedSource(LENGTHS), tmp_path, PART_ITEMS, processes=processes, runner=runner, on_progress=done.append
    )
    assert contents(tmp_path / "made") == expected
    assert report.content_hash == open_corpus(tmp_path / "made").content_hash()
    assert (done[-1], report.resumed) == (ITEMS, 0)
    check_statistics(report, tmp_path / "made")


def check_statistics(report, folder):
    """They are those of the records in the shards, and the counts agree with the index."""
    corpus = open_corpus(folder)
    assert isinstance(corpus, ShardedCorpus)
    expected = ConversionStatistics()
    for record in read_shard_records(corpus):
        assert isinstance(record, Record)
        expected.add(record)
    found = report.statistics
    assert found == expected.to_json()
    assert found["pairs"] + found["documents"] == report.records
    assert (found["images"], found["splits"]) == (report.pictures, corpus.splits())


def test_statistics_count_no_record_that_is_left_out(tmp_path, monkeypatch):
    class Documents(NumberedSource):
        """Documents of one to four images, of which the one of every third cannot be read; and captioned images."""

        def _item(self, key, number):
            if key == "pairs":
                return super()._item(key, number)
            name = "gone.png" if number % 3 == 0 else "red.png"
            images = [name, *(f"blue-{each}.png" for each in range(number % 4))]
            return Make.sequence(f"{key}:{number}", "before", *images)

    monkeypatch.setattr("lcl_core.data.shards.writer.MAX_RECORD_IMAGES", 3)
    report = in_parts(Documents({"documents": 40, "pairs": 40}), tmp_path, 16)
    assert report.quarantined == {"bad line": 3, "file_missing": 16, "too_large": 10}
    assert (report.statistics["documents"], report.statistics["pairs"]) == (30, 35)
    check_statistics(report, tmp_path / "made")


def test_nor_on_processes(tmp_path, expected):
    convert_numbered(tmp_path, processes=2)
    assert contents(tmp_path / "made") == expected
    assert len((tmp_path / "observed").read_text().splitlines()) == len(
        set((tmp_path / "observed").read_text().splitlines())
    )


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("stop", [1, 77, ITEMS])
def test_an_interrupted_conversion_continues(tmp_path, expected, stop, processes):
    observed = tmp_path / "observed"
    runner = ShuffledRunner if processes > 1 else None

    def progress(done):
        if done >= stop:
            raise JobCancelled

    source = NumberedSource(LENGTHS, observed)
    with pytest.raises(JobCancelled):
        in_parts(source, tmp_path, PART_ITEMS, processes=processes, runner=runner, on_progress=progress)
    assert not (tmp_path / "made").exists()
    report = in_parts(source, tmp_path, PART_ITEMS, processes=processes, runner=runner)
    assert report.resumed >= stop - PART_ITEMS * processes
    assert contents(tmp_path / "made") == expected
    repeated = Counter(observed.read_text().splitlines())
    assert sum(repeated.values()) - len(repeated) <= PART_ITEMS * processes


def test_another_input_or_other_settings_begin_anew(tmp_path, expected):
    def progress(done):
        if done >= 150:
            raise JobCancelled

    for source, settings in (
        (NumberedSource({"z": 200}), 1),
        (NumberedSource(LENGTHS), 1),
        (NumberedSource(LENGTHS), 2),
    ):
        with pytest.raises(JobCancelled):
            in_parts(source, tmp_path, PART_ITEMS, settings=settings, on_progress=progress)
    assert in_parts(NumberedSource(LENGTHS), tmp_path, PART_ITEMS, settings=3).resumed == 0
    assert contents(tmp_path / "made") == expected


def test_a_conversion_that_is_complete_is_not_repeated(tmp_path):
    source = NumberedSource(LENGTHS, tmp_path / "observed")
    first = in_parts(source, tmp_path, PART_ITEMS)
    before = (tmp_path / "observed").read_text()
    assert in_parts(source, tmp_path, PART_ITEMS) == replace(first, resumed=ITEMS)
    assert (tmp_path / "observed").read_text() == before
    (tmp_path / "made").rename(tmp_path / "work" / "dataset")  # as before its last step
    assert in_parts(source, tmp_path, PART_ITEMS).content_hash == first.content_hash
    assert open_corpus(tmp_path / "made").content_hash() == first.content_hash
    shutil.rmtree(tmp_path / "made")
    assert in_parts(NumberedSource(LENGTHS), tmp_path, PART_ITEMS) == first
    assert (tmp_path / "observed").read_text() == before


def test_shards_are_read_in_parts_too(tmp_path):
    whole = tmp_path / "whole"
    convert(NumberedSource(LENGTHS).records(), whole, SHARD_BYTES)
    records = ShardedRecords(open_corpus(whole))
    for name, options in (("one", {}), ("several", {"processes": 3, "runner": ShuffledRunner})):
        in_parts(records, tmp_path / name, 9, **options)
    assert contents(tmp_path / "one" / "made") == contents(tmp_path / "several" / "made")


def test_nothing_converted_and_too_many_sources_leave_nothing(tmp_path):
    class Sources(NumberedSource):
        def _item(self, key, number):
            item = super()._item("a", 0)
            assert isinstance(item, Record)
            return Record(item.id, item.body, item.images, source=str(number))

    for source, code in ((NumberedSource({}), "no_data"), (Sources({"a": 1100}), "too_large")):
        with pytest.raises(UserError) as caught:
            in_parts(source, tmp_path, 100)
        assert caught.value.code == code
        assert list(tmp_path.iterdir()) == []


class StoreAway(NumberedSource):
    """A source whose store answers until an image of its section ``c`` is read."""

    code = "store_unreachable"

    def _item(self, key, number):
        item = super()._item(key, number)
        if key != "c" or number < 20 or isinstance(item, BadItem):
            return item
        return Record(item.id, item.body, (RecordImage(item.images[0].name, self._refuse),))

    def _refuse(self):
        raise StoreError("it does not answer", code=self.code)


@pytest.mark.parametrize("code", ["store_unreachable", "store_forbidden"])
def test_an_outage_leaves_out_no_record_and_the_next_attempt_continues(tmp_path, expected, code):
    source = StoreAway(LENGTHS)
    source.code = code
    with pytest.raises(UserError) as caught:
        in_parts(source, tmp_path, PART_ITEMS)
    assert caught.value.code == code
    assert in_parts(NumberedSource(LENGTHS), tmp_path, PART_ITEMS).resumed >= 100
    assert contents(tmp_path / "made") == expected


def test_a_record_that_ends_every_process_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lcl_core.part_runners.MAX_ATTEMPTS", 2)
    source = NumberedSource({"a": 20}, deadly="a-9.png")
    with pytest.raises(UserError, match="items 9 to 16 of a") as caught:
        in_parts(source, tmp_path, 8, processes=2)
    assert caught.value.code == "part_failed"
    observed = tmp_path / "observed"
    assert in_parts(NumberedSource({"a": 20}, observed), tmp_path, 8).resumed >= 8, "after the cause is gone"


def children(pid):
    """Processes that convert for ``pid``; not the one that tracks their resources."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in command:
                yield int(child)


@pytest.mark.parametrize(("workers", "drivers"), [(2, 1)])
def test_kills_change_nothing(tmp_path, expected, eventually, workers, drivers):
    """SIGKILL to processes at work, and to the one that gives them work."""
    log, observed = tmp_path / "work" / LOG_FILE, tmp_path / "observed"
    chosen = random.Random(0)
    kills = [False] * workers + [True] * drivers
    chosen.shuffle(kills)

    def lines(path):
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def start():
        module = "tests.lcl_core.data.shards.part_sources"
        return subprocess.Popen([sys.executable, "-m", module, str(tmp_path), "2"], cwd=ROOT)

    process = start()
    try:
        for driver in kills:
            before = lines(log)
            eventually(lambda before=before: lines(log) >= before + 2, "progress")
            if driver:
                process.kill()
                process.wait()
                process = start()
            elif victims := list(children(process.pid)):
                os.kill(chosen.choice(victims), signal.SIGKILL)
        eventually(lambda: process.poll() is not None, "the end of the conversion")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    assert contents(tmp_path / "made") == expected
    repeated = lines(observed) - len(set(observed.read_text().splitlines()))
    assert repeated <= (workers + 2 * drivers) * PART_ITEMS
