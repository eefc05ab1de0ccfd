"""One rank of a run in which something is replaced.

    replaced_run.py RUN_DIR RANK RANKS STOP PORT whole|deferred|stopped|parts

whole: a sharded run builds a whole model. deferred, stopped: no run may. parts: small checkpoints have parts too.
"""

from __future__ import annotations

import sys

import torch

from lcl_core.train import trainer
from lcl_core.train.checkpoint import writer
from tests.lcl_core.train.resized_run import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[6] == "whole":
        trainer.defers_init = lambda *_: False
    elif sys.argv[6] == "parts":
        writer.MIN_PART_BYTES = 1
    else:
        trainer.build_model = lambda *_: sys.exit("a whole model")
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
