"""The house's structured logs, and Celery kept from setting up its own."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import structlog
from celery import signals
from celery.platforms import SecurityWarning

from lcl_core import logs
from lcl_core.faults import Fault, fault_of

log = structlog.get_logger(__name__)


def configure_logs(log_format: str) -> None:
    """As ``lcl_core.logs.configure_logs``."""
    logs.configure_logs(log_format)
    for chatty in ("celery.app.trace", "celery.worker.strategy"):  # a line or two for each message
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # it is about pickled messages, and ours are JSON only
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_keep_ours)


def log_database_error(error: Exception, **about: Any) -> None:
    """One line for a transaction that could not be made: ``disk_full`` when the database's disk is, else as it is said.

    Args:
        about: further facts of the line.
    """
    event = "disk_full" if fault_of(error, Path()) is Fault.DISK_FULL else "database_unreachable"
    log.warning(event, error=str(error).splitlines()[0], **about)


def _keep_ours(**_: Any) -> None:
    """That this signal has a listener keeps Celery from setting up logging itself."""
