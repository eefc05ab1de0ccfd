"""``python -m lcl_core.serving RUN_DIR``: an index run in its own process."""

import sys

from lcl_core.rundir import run_main
from lcl_core.serving.indexing import index

if __name__ == "__main__":
    sys.exit(run_main(index))
