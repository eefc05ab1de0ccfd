"""Structured logs on standard error, ours and every library's alike; lines about a run carry its id."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import structlog
from celery import signals
from celery.platforms import SecurityWarning


def configure_logs(log_format: str) -> None:
    """``json``: one object a line; ``text``: for people; ``auto``: text on a terminal."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(log_format))
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("alembic", "celery.app.trace", "celery.worker.strategy"):  # a line or two for each message
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    # it is about pickled messages, and ours are JSON only
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_keep_ours)


def _keep_ours(**_: Any) -> None:
    """That this signal has a listener keeps Celery from setting up logging itself."""


def _rendering(log_format: str) -> list[Any]:
    clean = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log_format == "text" or (log_format == "auto" and sys.stderr.isatty()):
        return [clean, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [clean, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
