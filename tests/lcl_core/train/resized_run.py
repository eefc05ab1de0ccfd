"""One rank of a run that stops at a step; which documents it used is written down.

    resized_run.py RUN_DIR RANK RANKS STOP PORT

RUN_DIR/used.RANKS.RANK.json gets the positions of the documents in the stream, one list a step.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

import torch

from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train import trainer


class StopsAt(RunDir):
    step = 0
    done = 0

    @property
    def stop_requested(self):
        return self.done >= self.step


def main(path, rank, ranks, stop, port):
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(own)
    run_dir = StopsAt(path)
    run_dir.step = stop
    used = []
    step = trainer.Trainer._step

    def recorded(self, batch, *more):
        step(self, batch, *more)
        run_dir.done = self.progress.step
        used.append([sample.position for documents in batch.documents for sample in documents.samples])

    trainer.Trainer._step = recorded
    run = run_dir.read_run()
    with suppress(JobCancelled):
        trainer.train(PretrainSpec.model_validate(run["spec"]), run_dir, run["datasets"])
    (run_dir.path / f"used.{ranks}.{rank}.json").write_text(json.dumps(used))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
