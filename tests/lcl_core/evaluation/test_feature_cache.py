"""The feature cache: made once, whole or not at all, bounded."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lcl_core.evaluation.features import FeatureCache


def maker(value: float, calls: list[float], size: int = 4) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        calls.append(value)
        np.save(folder / "pooled.npy", np.full(size, value, np.float32))

    return make


def entries(root: Path) -> list[Path]:
    return [entry for entry in root.iterdir() if entry.is_dir()]


def test_made_once_for_equal_facts_and_again_for_others(tmp_path: Path) -> None:
    cache, calls = FeatureCache(tmp_path / "cache"), []
    first = cache.get_or_make({"encoder": "a", "split": "x"}, maker(1, calls))
    again = FeatureCache(tmp_path / "cache").get_or_make({"split": "x", "encoder": "a"}, maker(2, calls))
    other = cache.get_or_make({"encoder": "b", "split": "x"}, maker(3, calls))
    assert calls == [1, 3]
    assert first["pooled"].tolist() == again["pooled"].tolist() == [1] * 4
    assert other["pooled"].tolist() == [3] * 4
    with pytest.raises(ValueError, match="read-only"):
        again["pooled"][0] = 5


def test_a_failed_maker_leaves_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)

    def fail(folder: Path) -> None:
        np.save(folder / "pooled.npy", np.zeros(3))
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        cache.get_or_make({"a": 1}, fail)
    assert entries(tmp_path) == []
    assert cache.get_or_make({"a": 1}, maker(7, []))["pooled"][0] == 7


def test_an_entry_that_another_thread_is_making_is_awaited_and_used(tmp_path: Path) -> None:
    calls: list[float] = []

    def get(value: float) -> float:
        return float(FeatureCache(tmp_path).get_or_make({"a": 1}, maker(value, calls))["pooled"][0])

    with ThreadPoolExecutor(4) as pool:
        values = set(pool.map(get, range(4)))
    assert (values, len(calls), len(entries(tmp_path))) == (set(calls), 1, 1)


def test_the_longest_unused_entries_go_first_and_mapped_arrays_stay_readable(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=9000)
    cache.get_or_make({"n": 0}, maker(0, [], size=1000))
    (zero,) = entries(tmp_path)
    victim = cache.get_or_make({"n": 1}, maker(1, [], size=1000))
    (one,) = set(entries(tmp_path)) - {zero}
    os.utime(f"{zero}.lock", (1000, 1000))
    os.utime(f"{one}.lock", (2000, 2000))
    calls: list[float] = []
    cache.get_or_make({"n": 0}, maker(0, calls, size=1000))  # used again, so younger than n = 1
    cache.get_or_make({"n": 2}, maker(2, calls, size=1000))
    assert calls == [2]
    assert len(entries(tmp_path)) == 2
    assert victim["pooled"].sum() == 1000
    cache.get_or_make({"n": 0}, maker(0, calls, size=1000))
    cache.get_or_make({"n": 1}, maker(1, calls, size=1000))
    assert calls == [2, 1]


def test_an_entry_larger_than_the_bound_is_still_usable(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=10)
    assert cache.get_or_make({"n": 0}, maker(4, [], size=1000))["pooled"][0] == 4


def test_arrays_are_on_disk_before_the_entry_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory-mapped file that a crash of the machine cuts off has its full size and reads as zeros."""
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        synced.append((path.name, path.parent.name.startswith(".")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    FeatureCache(tmp_path).get_or_make({"a": 1}, maker(7, []))
    assert ("pooled.npy", True) in synced  # in the folder that is renamed to the entry
