"""``python -m api``: the REST service on ``LCL_API_HOST:LCL_API_PORT`` (127.0.0.1:8765)."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import time
from argparse import ArgumentParser
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.config import STARTUP_FAILURE

from api.app import create_app
from api.core.settings import ApiSettings
from api.services.inference_device import reserve_visibility
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.common.logging import configure_logging
from lcl_core.common.paths import prepare_home, private_umask
from lcl_core.common.processes import forbid_downloads, thread_env
from lcl_core.common.settings import check_setting_names, settings_error_message
from lcl_core.db.session import UNREACHABLE

RETRY_SECONDS = 0.5
DATABASE_PATIENCE_SECONDS = 60.0  # for which a start waits for a PostgreSQL that does not answer
MAX_CONNECTIONS = 1000  # a further request is answered with 503
_UNUSABLE = ("home_unusable", "database_newer")  # no setting is wrong
RESERVED_FILES = 512  # open files besides connections: database, downloads, encoders


def main() -> int:
    """Serve until a signal. Waits for a PostgreSQL that does not answer yet.

    Exit status 2: wrong settings; 1: the database or the home folder cannot be used. Standard error has the reason in
    one line.
    """
    forbid_downloads()
    os.environ.update(thread_env(os.environ))  # before anything imports torch
    try:
        for warning in check_setting_names(os.environ):
            print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
        settings = ApiSettings()
        settings.check_secrets()
        prepare_home(settings.home)
        app = create_app(settings)
        reserve_visibility(settings.inference_device, os.environ)
        _prepare(app.state.context, settings)
        sockets = _inherited_socket(settings.api_socket)
    except (ValidationError, SettingsError, UserError) as error:
        return _fail(_error_line(error), 1 if getattr(error, "code", "") in _UNUSABLE else 2)
    except (SQLAlchemyError, OSError) as error:
        return _fail(f"the service cannot start: {_error_line(error)}", 1)
    configure_logging(settings.log_format)
    return _serve(app, settings, sockets)


def _prepare(state: AppState, settings: ApiSettings) -> None:
    """Prepare the state, waiting for PostgreSQL: supervisors restart a failed process after longer and longer delays.

    Raises: as AppState.prepare.
    """
    deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
    reported = ""
    while True:
        try:
            return state.prepare()
        except UNREACHABLE as error:
            if make_url(settings.resolved_database_url).get_backend_name() == "sqlite" or time.monotonic() >= deadline:
                raise
            if reported != (reported := f"waiting for the database: {_error_line(error)}"):
                print(reported, file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(RETRY_SECONDS)


def _inherited_socket(number: int | None) -> list[socket.socket] | None:
    """The launcher's listening socket, which keeps the port during a restart.

    Raises: UserError ``bad_setting`` when there is no such socket.
    """
    if number is None:
        return None
    try:
        os.set_inheritable(number, False)
        return [socket.socket(fileno=number)]
    except OSError as error:
        raise UserError(f"LCL_API_SOCKET: {number} is no inherited socket", code="bad_setting") from error


def _serve(app: FastAPI, settings: ApiSettings, sockets: list[socket.socket] | None) -> int:
    """Returns: the exit status; 3 when the port is in use."""
    gc.collect()
    gc.freeze()  # collections need not scan what is loaded by now
    _raise_file_limit(MAX_CONNECTIONS)
    config = uvicorn.Config(
        app,
        ws="none",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,  # structlog handles its records
        access_log=False,  # api.core.middleware logs each request
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    return 0 if server.started else STARTUP_FAILURE


def _raise_file_limit(connections: int) -> None:
    """Allow an open file per connection and some more, as far as the hard limit permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _error_line(error: Exception) -> str:
    """The error in one line, without secrets."""
    if isinstance(error, ValidationError):
        return settings_error_message(error)
    return str(error).splitlines()[0]


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    # it takes settings alone: an argument is a mistake, and --help no start
    ArgumentParser("python -m api", description=__doc__).parse_args()
    private_umask()
    sys.exit(main())
