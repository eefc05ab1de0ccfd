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

from api.client import Client
from deploy.local_stack import LocalStack
from lcl_core.model import LCLModel

pytestmark = pytest.mark.e2e
# of the resumed encoder on a processor of AMD with AVX-512: whoever changes how a step rounds writes the new value here
SHA256 = "aef7692eb1de18f5272812b7154228915d4aa0fd689381870c81748214d0a0c4"
# the softmax of attention does not see them: their gradients are round-off, which AdamW turns into steps of full length
SHIFTS = ("pool_project.pooler.cross_attn.k_bias", "pool_project.pooler.norm1_k.bias")
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
        patch.setenv("OMP_NUM_THREADS", "1")  # sums are in the order of the version that made the archive
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


def test_the_half_trained_run_resumes_to_the_same_encoder(
    client: Client, unpacked: Path, expected: dict[str, Any]
) -> None:
    """To rounding errors of what that version reached; to the bit where the processor rounds as the one noted above."""
    client.resume(expected["half"])
    run = client.wait(expected["half"])
    assert run["state"] == "succeeded", f"{run['reason']}\n{client.logs(run['id'])['text']}"
    steps = [line["step"] for line in client.metrics(run["id"]) if "loss" in line]
    assert steps == list(range(1, 25)), "the steps before the resume are kept, and none is repeated"
    folder = unpacked / "home" / "runs" / run["id"] / "artifacts" / "encoder"
    model, before = LCLModel.from_pretrained(folder), load_file(unpacked / "resumed.safetensors")
    reached = model.state_dict()
    assert reached.keys() == before.keys()
    for name, theirs in before.items():
        ours = reached[name]
        if name.endswith("in_proj_bias"):  # rows of queries, keys and values
            ours, theirs = (torch.cat((rows[0], rows[2])) for rows in (ours.view(3, -1), theirs.view(3, -1)))
        if name not in SHIFTS:
            distance = float((ours - theirs).norm()) / max(float(theirs.norm()), 1e-6)
            assert distance < 5e-3, f"{name} differs by {distance:.1e} of its norm"
    pixels = torch.randn(
        4, 3, model.config.image_size, model.config.image_size, generator=torch.Generator().manual_seed(0)
    )
    features = [model.get_image_features(pixels)]
    model.load_state_dict(before)
    features.append(model.get_image_features(pixels))
    torch.testing.assert_close(*features, rtol=0, atol=3e-4)
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and _vendor() == "AuthenticAMD":
        assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == SHA256


def _vendor() -> str:
    lines = Path("/proc/cpuinfo")
    if not lines.is_file():
        return ""
    found = [line.partition(":")[2].strip() for line in lines.read_text().splitlines() if line.startswith("vendor_id")]
    return found[0] if found else ""
