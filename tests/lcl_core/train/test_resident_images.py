"""Runs whose images are decoded once, into a map that attempts, ranks and loaders share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.data import open_corpus
from lcl_core.data.corpus.file_corpus import FileCorpus
from lcl_core.train import distributed
from tests.lcl_core.train.small_runs import TINY, curve, finished, killed_after, prepared, trainer, weights

DATA: dict[str, Any] = {
    **TINY["data"],
    "resident": True,
    "augmentation": {"crop_scale": [0.5, 1.0], "flip_probability": 0.5, "colour_jitter": 0.2},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, sample_zip: Path) -> RunDir:
    run_dir = prepared(tmp_path_factory.mktemp("undisturbed"), sample_zip, data=DATA)
    trainer(run_dir).run()
    return run_dir


def maps(run_dir: RunDir) -> list[Path]:
    return sorted((run_dir.path / "cache" / "resident").glob("*/levels.u8"))


def test_a_killed_run_goes_on_to_the_same_bits_also_where_the_map_was_evicted(
    undisturbed: RunDir, tmp_path: Path, sample_zip: Path, eventually: Callable[..., None]
) -> None:
    run_dir = prepared(tmp_path, sample_zip, data={**DATA, "workers": 2})
    killed_after(run_dir, 8, eventually)
    (levels,) = maps(run_dir)
    shutil.rmtree(levels.parent)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert curve(run_dir) == curve(undisturbed)
    assert weights(run_dir) == weights(undisturbed)
    assert [each.read_bytes() for each in maps(run_dir)] == [each.read_bytes() for each in maps(undisturbed)]


def test_two_ranks_share_one_map(tmp_path: Path, sample_zip: Path) -> None:
    run_dir = prepared(tmp_path, sample_zip, data={**DATA, "workers": 1}, engine={"processes": 2}, steps=2, log_every=1)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert len(maps(run_dir)) == 1
    assert curve(run_dir)[-1]["step"] == 2


def test_a_registered_corpus_is_not_read_for_its_hash(
    undisturbed: RunDir, tmp_path: Path, sample_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = open_corpus(sample_zip).content_hash()

    def refuse(*_: Any) -> str:
        raise AssertionError("the whole corpus is read")

    monkeypatch.setattr(FileCorpus, "content_hash", refuse)
    run_dir = prepared(tmp_path, sample_zip, data=DATA)
    run_dir.prepare({**run_dir.read_run(), "dataset_hashes": {"sample": registered}})
    with trainer(run_dir).resources:
        assert [each.parent.name for each in maps(run_dir)] == [each.parent.name for each in maps(undisturbed)]


def test_the_log_goes_on_while_a_corpus_is_read_for_its_hash(
    tmp_path: Path, sample_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "SECONDS_BETWEEN_LINES", 0.01)
    run_dir = prepared(tmp_path, sample_zip, data=DATA)

    def hashed(self: FileCorpus, progress: Callable[[], None]) -> str:
        while not run_dir.metrics_file.exists():
            progress()
        return "f" * 64

    monkeypatch.setattr(FileCorpus, "content_hash", hashed)
    with trainer(run_dir).resources:
        line = json.loads(run_dir.metrics_file.read_text().splitlines()[0])
    assert (line["step"], line["phase"]) == (0, "reading datasets")


def test_a_run_without_it_has_no_map(tmp_path: Path, sample_zip: Path) -> None:
    run_dir = prepared(tmp_path, sample_zip, steps=1)
    trainer(run_dir).run()
    assert not (run_dir.path / "cache").exists()


def test_a_limit_that_is_too_small_fails_the_run_by_name(
    tmp_path: Path, sample_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "1000")
    with pytest.raises(UserError, match="LCL_DATA_CACHE_BYTES") as caught:
        trainer(prepared(tmp_path, sample_zip, data=DATA))
    assert caught.value.field == "data.resident"
