"""The house's structured logs, and Celery kept from setting up its own."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from celery import signals
from celery.platforms import SecurityWarning

from lcl_core import logs


def configure_logs(log_format: str) -> None:
    """As ``lcl_core.logs.configure_logs``."""
    logs.configure_logs(log_format)
    for chatty in ("celery.app.trace", "celery.worker.strategy"):  # a line or two for each message
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # it is about pickled messages, and ours are JSON only
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_keep_ours)


def _keep_ours(**_: Any) -> None:
    """That this signal has a listener keeps Celery from setting up logging itself."""
