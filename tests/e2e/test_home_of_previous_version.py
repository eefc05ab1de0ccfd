"""A home folder of the version before the modules were renamed opens, searches and resumes a half-trained run.

The archive contains the folder as that version left it (an encoder, a collection of 35 images, a run of 24 steps
cancelled at step 10), the hits that it returned in fp32, and the weights that it reached when it resumed the run itself
with one thread.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from api.client import Client
from deploy.local_stack import LocalStack

pytestmark = pytest.mark.e2e
ARCHIVE = Path(__file__).parent.parent / "fixtures" / "home_0.1_before_rename.tar.gz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(unpacked: Path) -> dict[str, Any]:
    return json.loads((unpacked / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def client(unpacked: Path) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCL_WELCOME", "false")
        with LocalStack(unpacked / "home", log=print, ports=(0, 0)) as stack, stack.client() as client:
            yield client


def test_runs_and_encoders_are_listed(client: Client) -> None:
    assert {run["name"]: run["state"] for run in client.runs()["items"]} == {
        "old-complete": "succeeded",
        "old-index": "succeeded",
        "old-half": "cancelled",
    }


def test_a_search_returns_the_same_hits(client: Client, expected: dict[str, Any]) -> None:
    hits = client.search("old-collection", text="a red house", k=5)["hits"]
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in expected["search"]]
    assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in expected["search"]], abs=1e-5)


def test_the_half_trained_run_resumes_to_the_same_weights(
    client: Client, unpacked: Path, expected: dict[str, Any]
) -> None:
    """Bit for bit where the processor rounds as the one that wrote the fixture; elsewhere to rounding errors."""
    client.resume(expected["half"])
    run = client.wait(expected["half"])
    assert run["state"] == "succeeded", f"{run['reason']}\n{client.logs(run['id'])['text']}"
    lines = [line for line in client.metrics(run["id"]) if "loss" in line]
    steps = [line["step"] for line in lines]
    assert steps == list(range(1, 25)), "the steps before the resume are kept, and none is repeated"
    path = unpacked / "home" / "runs" / run["id"] / "artifacts" / "encoder" / "model.safetensors"
    reached, before = load_file(path), load_file(unpacked / "resumed.safetensors")
    assert reached.keys() == before.keys()
    moved = sum(line["lr"] for line in lines if line["step"] > 10)
    for name in before:
        for ours, theirs, atol in _split_by_tolerance(name, reached[name], before[name], moved):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=atol, msg=lambda text, n=name: f"{n}: {text}")
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and _vendor() == "AuthenticAMD":
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected["sha256"]


def _split_by_tolerance(
    name: str, reached: Tensor, before: Tensor, moved: float
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Parts of a parameter, with the absolute tolerance of each. ``moved``: sum of the learning rates of the steps.

    Softmax does not see a shift of all keys. The gradient of such a shift is round-off, of which AdamW makes steps of
    up to the learning rate in either direction.
    """
    shifts_keys = torch.zeros(len(before) if before.dim() else 1, dtype=torch.bool)
    if name.endswith((".k_bias", ".norm1_k.bias")):
        shifts_keys[:] = True
    elif name.endswith(".attn.in_proj_bias"):  # of queries, keys and values
        shifts_keys.view(3, -1)[1] = True
    for chosen, atol in ((shifts_keys, 2 * moved), (~shifts_keys, 1e-4)):
        yield reached.reshape(len(chosen), -1)[chosen], before.reshape(len(chosen), -1)[chosen], atol


def _vendor() -> str:
    lines = Path("/proc/cpuinfo")
    if not lines.is_file():
        return ""
    found = [line.partition(":")[2].strip() for line in lines.read_text().splitlines() if line.startswith("vendor_id")]
    return found[0] if found else ""
