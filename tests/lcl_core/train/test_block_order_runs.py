"""Runs that read blocks from object storage: those of the same shards on disk, to the bit."""

from __future__ import annotations

import uuid

import fsspec
import pytest

from lcl_core.data.corpus.base import SAMPLE_CORPUS
from lcl_core.data.formats import open_reader
from lcl_core.data.shards.convert import convert
from tests.lcl_core.train.small_runs import TINY, curve, prepared, trainer, weights

DATA = {**TINY["data"], "order": "blocks", "window_blocks": 3}


@pytest.fixture
def shards(tmp_path):
    convert(open_reader(SAMPLE_CORPUS, "native").records(), tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture
def url(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "0")
    url = f"memory://{uuid.uuid4().hex}/corpus"
    fsspec.filesystem("memory").put(f"{shards}/", f"{url}/", recursive=True)
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def test_a_run_from_storage_is_the_run_from_disk(shards, url, tmp_path):
    near, far = (
        prepared(tmp_path / name, place, data=DATA, steps=6) for name, place in (("near", shards), ("far", url))
    )
    trainer(near).run()
    trainer(far, workers=2).run()
    assert curve(near) == curve(far)
    assert weights(near) == weights(far)
