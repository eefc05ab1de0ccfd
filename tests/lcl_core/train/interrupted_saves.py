"""A real process whose children die by SIGKILL at each flush to the disk of an asynchronous save.

    interrupted_saves.py FOLDER

Prints one JSON line a child: the step that it wanted to save and the step that is there after its death; the last
child has flushes enough to live. Ends with an error when a checkpoint is not whole or something unfinished stays.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from lcl_core.train.checkpoint import CheckpointManager
from lcl_core.train.distributed import RankGroup


def groups(step):
    return {name: {"w": torch.full((999,), float(step))} for name in ("model", "optimizer")}


def save(folder, step, flushes):
    """Save ``step`` and die before the flush after ``flushes``."""
    real, left = os.fsync, flushes

    def counted(descriptor):
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        real(descriptor)

    os.fsync = counted
    with CheckpointManager(folder, RankGroup(), keep=2) as checkpointer:
        checkpointer.save(step, groups(step), {"step": step})


def there(folder):
    """The step of the checkpoint that a successor finds, after it has seen that all of it is of that step."""
    into = groups(0)
    with CheckpointManager(folder, RankGroup()) as checkpointer:
        step = checkpointer.load_newest(into)["step"]
    assert not checkpointer.passed_over
    assert all((tensors["w"] == step).all() for tensors in into.values())
    assert not list(folder.glob(".*"))
    return step


def main(folder):
    with CheckpointManager(folder, RankGroup()) as checkpointer:
        checkpointer.save(1, groups(1), {"step": 1})
    for flushes in range(100):
        step = flushes + 2
        child = os.fork()
        if child == 0:
            save(folder, step, flushes)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({"wanted": step, "there": there(folder)}) + "\n")
        sys.stdout.flush()  # or the next child has the line, too
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
