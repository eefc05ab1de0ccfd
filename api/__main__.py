"""``python -m api``: the REST service on ``LCL_API_HOST:LCL_API_PORT`` (127.0.0.1:8765)."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import time
from contextlib import suppress

from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from api.app import create_app
from api.core.settings import ApiSettings
from api.core.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.common.home_folder import prepare_home, private_umask
from lcl_core.common.logging import configure_logging
from lcl_core.common.process_env import forbid_downloads
from lcl_core.common.settings import check_setting_names, settings_error_message
from lcl_core.db.session import UNREACHABLE

RETRY_SECONDS = 0.5
RESERVED_FILES = 512  # that may be open beside the connections: of the database, of downloads, of encoders


def main() -> int:
    """Serve until a signal. A PostgreSQL that does not answer yet is waited for.

    Exit status 2: the settings are wrong; 1: the database or the home folder cannot be used. Standard error says
    which in one line.
    """
    forbid_downloads()
    try:
        for warning in check_setting_names(os.environ):
            print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
        settings = ApiSettings()
        settings.check_secrets()
        prepare_home(settings.home)
        app = create_app(settings)
        _prepare_database(app.state.context, settings)
        sockets = _inherited_socket(settings.api_socket)
    except (ValidationError, SettingsError, UserError) as error:
        return _fail(_error_line(error), 1 if getattr(error, "code", "") == "home_unusable" else 2)
    except (SQLAlchemyError, OSError) as error:
        return _fail(f"the service cannot start: {_error_line(error)}", 1)
    configure_logging(settings.log_format)
    return _serve(app, settings, sockets)


def _prepare_database(context: AppState, settings: ApiSettings) -> None:
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
            if said != (said := f"waiting for the database: {_error_line(error)}"):
                print(said, file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(RETRY_SECONDS)


def _inherited_socket(number: int | None) -> list[socket.socket] | None:
    """The socket that the launcher listens on, so that nobody else gets its port while we are not there.

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
    """Returns: the exit status; 3 when the port cannot be had."""
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE

    from api.core.http_server import server_config

    gc.collect()
    gc.freeze()  # what is loaded by now stays: to look through it again would hold up all requests for a moment
    _raise_file_limit(settings.max_connections)
    config = server_config(
        app,
        settings,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,  # its lines go where ours go
        access_log=False,  # api.core.middleware tells of each request
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    return 0 if server.started else STARTUP_FAILURE


def _raise_file_limit(connections: int) -> None:
    """Each connection is an open file; what is read and written comes on top. As far as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _error_line(error: Exception) -> str:
    """What is wrong, in one line, without a secret."""
    if isinstance(error, ValidationError):
        return settings_error_message(error)
    return str(error).splitlines()[0]


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    private_umask()
    sys.exit(main())
