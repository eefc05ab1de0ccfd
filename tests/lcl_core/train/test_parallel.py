"""Two processes learn what one learns from the joint batch, however the documents are dealt out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcl_core.model import LCLConfig
from tests.lcl_core.train.rank_processes import run_together

SCRIPT = Path(__file__).with_name("joint_run.py")
IMAGES = (1, 2, 1, 1)
# documents of each micro-batch of each rank: uneven images; a rank whose only document has no contrastive pair
DEALS = {
    "uneven": [[[0, 1, 2]], [[3]]],
    "accumulated": [[[1], [0]], [[3], [2]]],
}


def run(folder: Path, strategy: str, cuts: list[list[list[int]]]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    ranks = len(cuts)
    (folder / "meet").unlink(missing_ok=True)
    common = [str(ranks), strategy, json.dumps(cuts)]
    run_together([[sys.executable, str(SCRIPT), str(folder), str(rank), *common] for rank in range(ranks)])
    name = f"result_{strategy}_{ranks}"
    return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joint")


@pytest.fixture
def case(joint: Path, small_config: LCLConfig, documents: list[Tensor], pixels: Tensor) -> Path:
    (joint / "config.json").write_text(small_config.to_json_string(use_diff=False))
    rows = {f"row_{number}": row for number, row in enumerate(documents)}
    images = {f"pixels_{number}": part.clone() for number, part in enumerate(pixels.split(IMAGES))}
    save_file(rows | images, joint / "case.safetensors")
    return joint


@pytest.mark.parametrize("deal", sorted(DEALS))
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_are_one_process_with_the_joint_batch(case: Path, strategy: str, deal: str) -> None:
    alone, alone_facts = run(case, strategy, [[[0, 1, 2, 3]]])
    shared, shared_facts = run(case, strategy, DEALS[deal])
    assert shared.keys() == alone.keys()
    for name, tensor in alone.items():
        scale = max(float(tensor.abs().max()), 1e-3)
        # two AdamW steps turn round-off of near-zero gradients into full steps of lr, so weights get more room
        room = 2e-5 if name.startswith("grad.") else 2e-4
        worst = float((shared[name] - tensor).abs().max())
        assert worst <= room * scale + 2e-6, name
    for mine, theirs in zip(shared_facts, alone_facts, strict=True):
        assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
        assert mine["norm"] == pytest.approx(theirs["norm"], rel=1e-5)
        assert (mine["correct"], mine["pairs"]) == (theirs["correct"], theirs["pairs"])
