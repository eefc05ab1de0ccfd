"""``python -m lcl_core.data.validation RUN_DIR``: validate a corpus as ``RUN_DIR/run.json`` says."""

from __future__ import annotations

import sys

from lcl_core.common.run_dir import run_main
from lcl_core.data.validation.run import validate_run

if __name__ == "__main__":
    sys.exit(run_main(validate_run))
