"""``python -m lcl_core.train`` with a fault: ``fault.json`` in RUN_DIR says which rank raises what, at which step.

As over NCCL, the end of a process group waits for the other ranks, for ever.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import torch

from lcl_core.train import __main__ as entry
from lcl_core.train import distributed, launch
from lcl_core.train.train_step import TrainingStep

ERRORS = {"memory": torch.OutOfMemoryError("CUDA out of memory"), "bug": ValueError("a broken image")}


def main():
    fault = json.loads(Path(sys.argv[1], "fault.json").read_text())
    start, step = launch.subprocess.Popen, TrainingStep.__call__
    calls = iter(range(1_000_000))

    def start_faulty(command, **options):
        return start([command[0], "-m", __spec__.name, *command[3:]], **options)

    def fail(self, *arguments):
        if next(calls) == fault["step"] and entry._rank() == fault["rank"]:
            raise ERRORS[fault["error"]]
        return step(self, *arguments)

    launch.subprocess.Popen = start_faulty
    TrainingStep.__call__ = fail
    end = distributed.dist.destroy_process_group
    distributed.dist.destroy_process_group = lambda *group: end(*group) if group else threading.Event().wait()
    return entry.main()


if __name__ == "__main__":
    entry.end_process(main())
