"""``python -m tests.chaos.worker``: a worker of the product whose pre-trainings write down when they are at work."""

from __future__ import annotations

import sys

from lcl_core.jobs import JOB_MODULES
from tests.chaos import toy_job as trainer
from workers.settings import WorkerSettings
from workers.worker import WorkerProcess, configure_logging

if __name__ == "__main__":
    settings = WorkerSettings()
    configure_logging("json")
    sys.exit(WorkerProcess(settings, {**JOB_MODULES, "pretrain": trainer.__name__}).run())
