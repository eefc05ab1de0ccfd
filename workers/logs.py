"""Logging of workers: the shared configuration, with Celery's own set-up switched off."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import structlog
from celery import signals
from celery.platforms import SecurityWarning

from lcl_core.common import logging as logging_logging
from lcl_core.common.system_errors import FailureCode, failure_code

log = structlog.get_logger(__name__)


def configure_logging(log_format: str) -> None:
    """As ``lcl_core.common.logging.configure_logging``."""
    logging_logging.configure_logging(log_format)
    for chatty in ("celery.app.trace", "celery.worker.strategy"):  # a line or two for each message
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # it is about pickled messages, and ours are JSON only
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_skip_celery_setup)


def log_database_error(error: Exception, **about: Any) -> None:
    """One line for a transaction that could not be made: ``disk_full`` when the database's disk is, else as it is said.

    Args:
        about: further facts of the line.
    """
    event = "disk_full" if failure_code(error, Path()) is FailureCode.DISK_FULL else "database_unreachable"
    log.warning(event, error=str(error).splitlines()[0], **about)


def _skip_celery_setup(**_: Any) -> None:
    """That this signal has a listener keeps Celery from setting up logging itself."""
