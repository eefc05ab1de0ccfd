"""A small real process that keeps the contract of a run's process: metrics, checkpoints, SIGTERM, result.

``spec.steps`` steps of LCL_TOY_SECONDS each (default 0.01), a checkpoint every ``spec.checkpoint_every``. LCL_TOY says
how it misbehaves, and from which step on: ``KIND`` or ``KIND@STEP``. With LCL_TOY_ACTIVITY it logs its activity to that
file. Every executor passes variables of this prefix on.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import JobCancelled, run_main
from tests.chaos.activity_log import record_activity

WEIGHTS = b"toy weights"
SHOWN = ("LCL_DATABASE_URL", "RANK", "LCL_HOME", "CUDA_VISIBLE_DEVICES")  # of its environment, in its result


class NcclError(RuntimeError):
    """As torch.distributed's DistBackendError."""


NcclError.__qualname__ = "DistBackendError"


def misbehave(kind):
    if kind == "crash":
        raise RuntimeError("the toy broke")
    if kind == "user_error":
        raise UserError("no such thing", code="bad_thing", field="data", file="corpus.jsonl", line=3)
    if kind == "memory":
        raise MemoryError("CUDA out of memory")
    if kind == "hungry":
        bytearray(1 << 55)
    if kind == "silent":
        os._exit(0)
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "nccl":
        raise NcclError("NCCL error in: ProcessGroupNCCL.cpp:94, remote process exited or there was a network error")
    if kind == "hang":
        time.sleep(600)


def save(run_dir, step):
    write_json_atomically(run_dir.checkpoints / "state.json", {"step": step})


def resume_step(run_dir):
    state = run_dir.checkpoints / "state.json"
    step = json.loads(state.read_text())["step"] if state.exists() else 0
    run_dir.truncate_metrics(step)
    return step


def write_encoder(run_dir):
    folder = run_dir.artifacts / "encoder"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return {"path": "artifacts/encoder", "hash": hashlib.sha256(WEIGHTS).hexdigest(), "parameters": len(WEIGHTS)}


def work(run_dir):
    log = os.environ.get("LCL_TOY_ACTIVITY")
    with record_activity(Path(log), run_dir.read_run()["run_id"]) if log else nullcontext():
        return train(run_dir)


def train(run_dir):
    run = run_dir.read_run()
    steps, every = run["spec"].get("steps", 3), run["spec"].get("checkpoint_every", 100)
    kind, _, since = os.environ.get("LCL_TOY", "").partition("@")
    start = resume_step(run_dir)
    sys.stdout.write(f"toy starts at {start}\n")
    helper = None
    if kind == "helper":  # like a data worker: without it the next step fails
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    for step in range(start + 1, steps + 1):
        if step > int(since or 0):
            misbehave(kind)
        time.sleep(float(os.environ.get("LCL_TOY_SECONDS", "0.01")))
        if helper is not None and helper.poll() is not None:
            raise RuntimeError("the helper is gone")
        run_dir.append_metrics(step=step, total_steps=steps, attempt=run["attempt"], pid=os.getpid())
        if step % every == 0:
            save(run_dir, step)
        if run_dir.stop_requested:
            save(run_dir, step)
            raise JobCancelled
    environment = {name: os.environ.get(name) for name in SHOWN}
    facts = {"environment": environment, "inputs": [run["datasets"], run["encoders"]], "start": start}
    if run["kind"] == "evaluate":
        return {"rows": [{"metric": "steps", "value": steps}], "final": facts}
    return {"encoder": write_encoder(run_dir), "final": facts}


if __name__ == "__main__":
    assert Path(sys.argv[1]).is_dir()
    sys.exit(run_main(work))
