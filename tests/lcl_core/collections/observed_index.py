"""An index run whose reading of images is observed, and which processes of its own are killed in.

``python -m tests.lcl_core.collections.observed_index RUN_DIR`` does what ``run.json`` says, in parts of 16 images. Each
image that is read adds a line to RUN_DIR/observed. The process that reads an image for which a file RUN_DIR/kill-NAME
is there removes the file, and kills itself, or the process that gave it its work, as the file says.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from lcl_core.collections.index_job import run_index_job
from lcl_core.common.run_dir import run_main
from lcl_core.data.corpus.file_corpus import FileCorpus

PART_ITEMS = 16
_read = FileCorpus.image_bytes


def _observe(self: Any, name: str) -> bytes:
    folder = Path(sys.argv[1])
    with (folder / "observed").open("ab", buffering=0) as file:
        file.write(f"{name}\n".encode())
    order = folder / f"kill-{name.replace('/', '-')}"
    if order.exists():
        victim = order.read_text()
        order.unlink()
        os.kill(os.getppid() if victim == "driver" else os.getpid(), signal.SIGKILL)
    return _read(self, name)


if __name__ in ("__main__", "__mp_main__"):  # of the run, and of the processes that it starts
    FileCorpus.image_bytes = _observe  # type: ignore[method-assign]
if __name__ == "__main__":
    sys.exit(run_main(partial(run_index_job, part_items=PART_ITEMS)))
