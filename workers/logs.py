"""Logging of workers: the shared configuration, with Celery's own set-up switched off."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from celery import signals
from celery.platforms import SecurityWarning

from lcl_core.common.logging import configure_logging as configure_shared_logging
from lcl_core.common.logging import log_database_error

__all__ = ["configure_logging", "log_database_error"]


def configure_logging(log_format: str) -> None:
    """``lcl_core.common.logging.configure_logging``, and Celery's own loggers quieter."""
    configure_shared_logging(log_format)
    for noisy in ("celery.app.trace", "celery.worker.strategy"):  # a line or two for each message
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # it is about pickled messages, and ours are JSON only
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_skip_celery_setup)


def _skip_celery_setup(**_: Any) -> None:
    """Celery configures logging itself unless this signal has a listener."""
