"""``data_workers_run.py WORKERS RUN_DIR``: ``python -m lcl_core.train`` with a chosen number of data workers."""

from __future__ import annotations

import os
import sys

from lcl_core.common.run_dir import run_main
from tests.lcl_core.train.small_runs import trainer

if __name__ == "__main__":
    workers, run_dir = sys.argv[1:]
    code = run_main(lambda run_dir: trainer(run_dir, int(workers)).run(), [run_dir])
    sys.stdout.flush()
    os._exit(code)
