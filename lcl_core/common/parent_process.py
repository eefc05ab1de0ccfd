"""End of a process of ``multiprocessing`` with its parent. Uses the standard library alone."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess


def exit_with_parent() -> None:
    """Start a thread that ends this process when its parent has ended; none in a process that has no such parent.

    Without it, a process whose parent was killed would wait for messages for ever, and keep what it holds: memory, the
    lock of a run's folder.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), name="exit-with-parent", daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
