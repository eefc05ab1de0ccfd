"""Sharded checkpoints of two processes come back into two and into one, bit by bit."""

from __future__ import annotations

from tests.lcl_core.train.rank_processes import run_ranks

MODULE = "tests.lcl_core.train.sharded_checkpoints"


def run(folder, ranks):
    run_ranks([[MODULE, str(folder), str(rank), str(ranks)] for rank in range(ranks)])


def test_two_ranks_save_and_two_and_one_resume(tmp_path):
    run(tmp_path, ranks=2)
    checkpoint = tmp_path / "checkpoints" / "step_00000002"
    assert {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*.*")} == {
        *(f"{group}/rank_0000{rank}.safetensors" for group in ("model", "optimizer", "more") for rank in (0, 1)),
        *(f"rng.rank_0000{rank}.safetensors" for rank in (0, 1)),
        "state.json",
        "manifest.json",
    }
    run(tmp_path, ranks=1)
