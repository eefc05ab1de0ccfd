"""A process of a run that locks each device that it sees, and fails where another process has one of them."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from toy_run import write_encoder

from lcl_core.common.run_dir import run_main


def work(run_dir):
    processes = run_dir.read_run()["spec"]["engine"]["processes"]
    devices = [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device]
    with ExitStack() as locks:
        for device in devices:
            lock = locks.enter_context(Path(os.environ["DEVICE_LOCKS"], device).open("a+"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: another run uses it
        if len(devices) != processes:
            raise RuntimeError(f"{processes} processes and {len(devices)} devices")
        run_dir.append_metrics(step=1, total_steps=1)
        time.sleep(float(os.environ.get("LCL_TOY_SECONDS", "0.01")))
        return {"encoder": write_encoder(run_dir), "final": {"devices": devices}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"devices": os.environ["CUDA_VISIBLE_DEVICES"]}))
    sys.exit(run_main(work))
