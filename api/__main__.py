"""``python -m api``: the REST service on ``LCL_API_HOST:LCL_API_PORT`` (127.0.0.1:8765)."""

from __future__ import annotations

import os
import socket
import sys
from argparse import ArgumentParser
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.config import STARTUP_FAILURE

from api.app import create_app
from api.core.settings import ApiSettings
from api.http_server import server_config
from api.services.inference_device import reserve_visibility
from lcl_core.common.errors import UserError
from lcl_core.common.logging import configure_logging
from lcl_core.common.paths import prepare_home, private_umask
from lcl_core.common.processes import forbid_downloads, thread_env
from lcl_core.common.settings import check_setting_names, settings_error_message

UNUSABLE = ("home_unusable", "database_newer")  # no setting is wrong


def main() -> int:
    """Serve until a signal.

    Exit status 2: wrong settings; 1: the database or the home folder cannot be used. Standard error has the reason in
    one line.
    """
    forbid_downloads()
    os.environ.update(thread_env(os.environ))  # before anything imports torch
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads of many short searches wait for each other
    try:
        for warning in check_setting_names(os.environ):
            print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
        settings = ApiSettings()
        prepare_home(settings.home)
        app = create_app(settings)
        reserve_visibility(settings.inference_device, os.environ)
        app.state.context.prepare()
    except ValidationError as error:
        return _fail(settings_error_message(error), 2)
    except (SettingsError, UserError) as error:
        return _fail(str(error), 1 if getattr(error, "code", "") in UNUSABLE else 2)
    except (SQLAlchemyError, OSError) as error:
        return _fail(f"the service cannot start: {error}", 1)
    configure_logging(settings.log_format)
    return _serve(app, settings)


def _serve(app: FastAPI, settings: ApiSettings) -> int:
    """Returns: the exit status; 3 when the port is in use."""
    config = server_config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,  # structlog handles its records
        access_log=False,  # api.core.middleware logs each request
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    sockets = None
    if settings.api_socket is not None:  # the launcher's, which keeps the port during a restart
        os.set_inheritable(settings.api_socket, False)
        sockets = [socket.socket(fileno=settings.api_socket)]
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    return 0 if server.started else STARTUP_FAILURE


def _fail(message: str, status: int) -> int:
    print(f"error: {message.splitlines()[0]}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    # it takes settings alone: an argument is a mistake, and --help no start
    ArgumentParser("python -m api", description=__doc__).parse_args()
    private_umask()
    sys.exit(main())
