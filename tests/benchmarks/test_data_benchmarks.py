"""The benchmarks of the data plane, on little: they run, print one object, and their figures mean what they say."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import decode, loader, packing
from benchmarks.__main__ import main
from lcl_core.data import open_corpus

pytestmark = pytest.mark.extended


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def options(module: Any, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_loader_is_measured_at_each_length(tmp_path: Path) -> None:
    chosen = options(loader, "--lengths", "10", "5000", "--resume-at", "4000", "--reads", "5", "--repeats", "1")
    report = loader.measure(tmp_path, chosen)
    assert set(report["by_documents"]) == {10, 5000}
    for figures in report["by_documents"].values():
        assert figures["rss_mb"] > 20
        assert figures["worker_rss_mb"] > 20
        assert figures["first_batch_s"] > 0
    assert report["resume_at"] == 4000
    assert report["first_batch_ratio"][10] == 1
    assert len(open_corpus(tmp_path / "5000").documents) == 5000


def test_memory_of_a_long_index_is_that_of_a_short_one(tmp_path: Path) -> None:
    chosen = options(loader, "--lengths", "10", "300000", "--reads", "300", "--repeats", "1")
    figures = loader.measure(tmp_path, chosen)["by_documents"]
    assert figures[300_000]["rss_mb"] < figures[10]["rss_mb"] + 25


def test_orders_are_compared_on_slow_storage() -> None:
    # so many steps that blocks which are fetched ahead and not read any more weigh little, however busy the machine is
    few = ["--latency", "0.001", "--workers", "2", "--step", "0", "--steps", "120", "--images", "8", "--repeats", "20"]
    done = run("remote-loader", *few, "--window-blocks", "4")
    assert done.returncode == 0, done.stderr
    orders = json.loads(done.stdout)["orders"]
    assert orders["full"]["requests_a_document"] >= 1
    assert orders["full"]["bytes_read_to_needed"] >= 1
    assert orders["blocks"]["requests_a_document"] <= 0.1
    assert 1 <= orders["blocks"]["bytes_read_to_needed"] < 2
    assert min(order["documents_per_s_a_loader"] for order in orders.values()) > 0


def test_packing_is_measured_on_the_sample(capsys: pytest.CaptureFixture[str]) -> None:
    packing.main(options(packing, "--batches", "20", "--lookahead", "0", "16"))
    report = json.loads(capsys.readouterr().out)
    assert report["efficiency_by_lookahead"]["0"] < report["efficiency_by_lookahead"]["16"]
    assert 0.97 < report["efficiency_by_lookahead"]["16"] <= 1
    assert report["packer_ms_per_batch"].keys() == {"0", "16"}


def test_images_are_decoded_both_ways(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    folder = decode.make_images(tmp_path / "made", 6, (100, 75))
    report = decode.measure(folder, 32, (0.9, 1.0), rounds=1)
    assert report["pictures"] == 6
    rates = report["images_per_s"]
    assert report["ratio_to_torchvision"] == pytest.approx(rates["lcl"] / rates["torchvision"], rel=0.01)


def test_a_folder_without_images_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    assert main(["decode", "--images", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
