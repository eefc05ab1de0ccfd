"""structlog on standard error for our lines and every library's. Lines about a run carry its id as ``run``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import structlog

from lcl_core.common.errors import FailureCode, failure_code

_NOISY_LOGGERS = ("alembic", "httpx")
_SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
log = structlog.get_logger(__name__)


def configure_logging(log_format: str) -> None:
    """``json``: one object a line; ``text``: for people; ``auto``: text on a terminal."""
    structlog.configure(
        processors=[*_SHARED_PROCESSORS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED_PROCESSORS, processors=_renderers(log_format))
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def log_database_error(error: Exception, **about: Any) -> None:
    """Log a failed transaction: event ``disk_full`` when the database's disk is full, else ``database_unreachable``."""
    event = "disk_full" if failure_code(error, Path()) is FailureCode.DISK_FULL else "database_unreachable"
    log.warning(event, error=str(error).splitlines()[0], **about)


def _renderers(log_format: str) -> list[Any]:
    """Tracebacks are plain: structlog's own would print the values of every variable, keys among them."""
    clean = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log_format == "text" or (log_format == "auto" and sys.stderr.isatty()):
        plain = structlog.dev.plain_traceback
        return [clean, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [clean, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
