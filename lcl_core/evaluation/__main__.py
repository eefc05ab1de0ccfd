"""``python -m lcl_core.evaluation RUN_DIR``: the process of an evaluation run."""

from __future__ import annotations

import sys

from lcl_core.common.run_dir import run_main
from lcl_core.evaluation.evaluate import evaluate

if __name__ == "__main__":
    sys.exit(run_main(evaluate))
