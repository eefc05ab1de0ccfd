"""Each benchmark runs on little and prints one object with the figure that documents quote."""

import json
import subprocess
import sys

import pytest

from lcl_core.data import SAMPLE_CORPUS
from lcl_core.pretrained import pretrained_encoders
from tests.lcl_core.authors_files import config_to_official
from tests.lcl_core.conftest import small_config  # noqa: F401

pytestmark = pytest.mark.extended

DOCUMENT = {"items": [{"ids": [5, 6, 7]}, {"image": 1}, {"ids": [8]}]}
STEPS = ["--config", "{folder}/config.json", "--documents", "{folder}/docs.jsonl", "--batch-size", "1", "--steps", "2"]
STEPS += ["--threads", "1", "--json"]
PROBE = ["--encoder", "{encoder}", "--corpus", "{sample}", "--limit", "100", "--threads", "1", "--json"]
LOAD = ["--clients", "4", "--requests", "16", "--warm-up", "4"]
RUNS = [
    ("train", STEPS, "seconds_per_step"),
    ("as-shipped", STEPS, "seconds_per_step"),
    ("gpu", ["--device", "cpu", "--quick", "--parts", "attention", "objectives"], "parts"),
    (
        "collection",
        ["--width", "24", "--rows", "2000", "--queries", "40", "--compared", "20", "--out", "{folder}/made"],
        "recall_at_10",
    ),
    ("linear-probe", [*PROBE, "--label", "group", "--test-split", "test_vendor", "--pixels", "8"], "rows"),
    ("submissions", [*LOAD, "--rate", "40"], "flat_out"),
    ("claims", ["--runs", "30", "--workers", "2"], "claim_p99_ms"),
    ("embeddings", [*LOAD, "--few", "2", "--model", "tiny", "--plain", "ViT-S-32-alt"], "ratio"),
]


@pytest.mark.parametrize(("name", "options", "figure"), RUNS)
def test_it_prints_its_figure(name, options, figure, small_config, tmp_path):  # noqa: F811
    (tmp_path / "config.json").write_text(json.dumps(config_to_official(small_config)))
    (tmp_path / "docs.jsonl").write_text(json.dumps(DOCUMENT) + "\n")
    encoder = pretrained_encoders()[-1].directory
    named = {"folder": tmp_path, "encoder": encoder, "sample": SAMPLE_CORPUS}
    command = [sys.executable, "-m", "benchmarks", name, *(option.format(**named) for option in options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[figure]
