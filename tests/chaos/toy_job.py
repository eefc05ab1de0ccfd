"""``python -m tests.chaos.toy_job RUN_DIR``: the job process of a run; it logs its own activity.

It runs the toy of ``tests.chaos.toy_training``, or, for seeds below TOY_SEEDS, the product's own pre-training.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from typing import Any

from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import JobCancelled, RunDir, run_main
from tests.chaos import toy_training
from tests.chaos.activity_log import record_activity

TOY_SEEDS = 1_000_000
STEP_SECONDS = float(os.environ.get("LCL_CHAOS_STEP_SECONDS", "0.05"))
ACTIVITY_LOG = "watchbook.jsonl"


def work(run_dir: RunDir) -> dict[str, Any]:
    """Called once the directory is held."""
    run = run_dir.read_run()
    with record_activity(run_dir.path.parents[1] / ACTIVITY_LOG, run["run_id"]):
        return toy(run_dir, run["spec"]) if run["spec"]["seed"] >= TOY_SEEDS else pretrain(run_dir)


def pretrain(run_dir: RunDir) -> dict[str, Any]:
    from lcl_core.train.__main__ import pretrain

    return pretrain(run_dir)


def toy(run_dir: RunDir, spec: dict[str, Any]) -> dict[str, Any]:
    checkpoint = run_dir.checkpoints / "state.json"
    state, done = toy_training.initial_state(spec["seed"]), 0
    if checkpoint.exists():
        state, done = json.loads(checkpoint.read_text())
    run_dir.truncate_metrics(done)
    for step in range(done + 1, spec["steps"] + 1):
        time.sleep(STEP_SECONDS)
        state = toy_training.advance(state, step)
        run_dir.append_metrics(step=step, total_steps=spec["steps"], loss=toy_training.loss_of(state))
        if run_dir.stop_requested or step % spec["checkpoint_every"] == 0:
            write_json_atomically(checkpoint, [state, step])
        if run_dir.stop_requested:
            raise JobCancelled
    return {"encoder": write_encoder(run_dir, toy_training.weights_of(state))}


def write_encoder(run_dir: RunDir, weights: bytes) -> dict[str, Any]:
    """In two halves with a step between them: who is killed there leaves half an encoder behind."""
    folder = run_dir.artifacts / "encoder"
    folder.mkdir(exist_ok=True)
    middle = len(weights) // 2
    with (folder / "model.safetensors").open("wb") as file:
        file.write(weights[:middle])
        file.flush()
        time.sleep(STEP_SECONDS)
        file.write(weights[middle:])
    return {"path": "artifacts/encoder", "hash": hashlib.sha256(weights).hexdigest(), "parameters": len(weights)}


if __name__ == "__main__":
    code = run_main(work)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as lcl_core.train leaves
