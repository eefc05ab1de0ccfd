"""Logs as lines of ``key=value`` on standard error, one an event, with the request's id."""

from __future__ import annotations

import logging

import structlog


def configure_structlog() -> None:
    """Send events through the standard logging, where whoever hosts the process may catch them.

    Tracebacks are plain: structlog's own would print the values of every variable, keys among them.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def configure() -> None:
    """For a process of our own: ``configure_structlog``, and everything from level INFO on to standard error."""
    configure_structlog()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("alembic", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
