"""A run that goes on where another one ended."""

from __future__ import annotations

import shutil

import structlog

from lcl_core.rundir import RunDir
from lcl_core.runs.artifacts import stage

log = structlog.get_logger(__name__)


def inherit(parent: RunDir, heir: RunDir) -> bool:
    """Give ``heir`` the checkpoints of ``parent`` (files share their bytes where the disk allows) and its metric lines.

    The checkpoints come last and whole: an attempt that is interrupted before finds none, and begins anew. So does a
    run whose parent's folder is gone; it does the same work, only more of it.

    Returns: whether there were any. Raises: OSError.
    """
    if not parent.checkpoints.is_dir() or not any(parent.checkpoints.iterdir()):
        log.warning("nothing_to_inherit", parent=parent.path.name)
        return False
    if parent.metrics_file.exists():
        shutil.copyfile(parent.metrics_file, heir.metrics_file)
    stage(parent.checkpoints, heir.checkpoints, link=True).publish()
    return True
