"""``python -m lcl_core.serving.matching RUN_DIR``: match a corpus as ``RUN_DIR/run.json`` says."""

from __future__ import annotations

import sys

from lcl_core.rundir import run_main
from lcl_core.serving.matching.run import match_run

if __name__ == "__main__":
    sys.exit(run_main(match_run))
