"""``python -m api``: the REST service on ``LCL_API_HOST:LCL_API_PORT`` (127.0.0.1:8765)."""

from __future__ import annotations

import gc
import sys
import time

from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from api.app import create_app
from api.context import Context
from api.settings import ApiSettings
from lcl_core.errors import UserError
from lcl_core.logs import configure_logs
from lcl_core.offline import forbid_downloads
from lcl_core.runs.database import UNREACHABLE
from lcl_core.settings import misconfiguration

AGAIN_SECONDS = 0.5


def main() -> int:
    """Serve until a signal. A PostgreSQL that does not answer yet is waited for.

    Exit status 2: the settings are wrong; 1: the database or the home folder cannot be used. Standard error says
    which in one line.
    """
    forbid_downloads()
    try:
        settings = ApiSettings()
        app = create_app(settings)
        _prepare(app.state.context, settings)
    except (ValidationError, SettingsError, UserError) as error:
        return _complain(_words(error), 2)
    except (SQLAlchemyError, OSError) as error:
        return _complain(f"the service cannot start: {_words(error)}", 1)
    configure_logs(settings.log_format)
    _serve(app, settings)
    return 0


def _prepare(context: Context, settings: ApiSettings) -> None:
    """Whoever starts us again when we give up does so after longer and longer: it is better to be there already.

    Raises: as Context.prepare.
    """
    deadline = time.monotonic() + settings.database_patience_seconds
    said = ""
    while True:
        try:
            return context.prepare()
        except UNREACHABLE as error:
            if make_url(settings.resolved_database_url).get_backend_name() == "sqlite" or time.monotonic() >= deadline:
                raise
            if said != (said := f"waiting for the database: {_words(error)}"):
                print(said, file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(AGAIN_SECONDS)


def _serve(app: FastAPI, settings: ApiSettings) -> None:
    import uvicorn

    gc.collect()
    gc.freeze()  # what is loaded by now stays: to look through it again would hold up all requests for a moment
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,  # its lines go where ours go
        access_log=False,  # api.middleware tells of each request
        server_header=False,
        timeout_graceful_shutdown=10,
    )


def _words(error: Exception) -> str:
    """What is wrong, in one line, without a secret."""
    if isinstance(error, ValidationError):
        return misconfiguration(error)
    return str(error).splitlines()[0]


def _complain(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
