"""``python -m ui``: serve the page."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from argparse import ArgumentParser

import uvicorn
from pydantic import ValidationError

from api.http_server import server_config
from ui.settings import UiSettings, default_home, format_validation_error, load_or_create_token, url_with_token


def main() -> int:
    """Serve until interrupted. Settings: ``LCL_UI_*``, ``LCL_TEAM``, ``LCL_API_URL``, ``LCL_API_KEY``, ``LCL_HOME``.

    Returns: exit status: 2 for wrong settings (one line on standard error), 3 if the port is not available.
    """
    try:
        settings = UiSettings()
        if not settings.team and settings.token is None:  # the launcher sets a token and prints the address itself
            address = url_with_token(f"http://127.0.0.1:{settings.port}", load_or_create_token(default_home()))
            sys.stdout.write(f"page  {address}\n")
            sys.stdout.flush()
    except ValidationError as error:
        sys.stderr.write(f"error: {format_validation_error(error)}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: LCL_HOME: the page's token cannot be kept there: {error}\n")
        return 2
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    with tempfile.TemporaryDirectory(prefix="lcl-page-") as folder:  # mode 0700
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        config = server_config(
            "ui.app:create_app",  # imported by the server: gradio reads the environment above
            factory=True,
            host=settings.host,
            port=settings.port,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            log_level="warning",
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(config)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(_inherited_sockets(settings.socket))
    return 0 if server.started else 3


def _inherited_sockets(number: int | None) -> list[socket.socket] | None:
    """The listening socket of the launcher, which keeps the port while the page restarts."""
    if number is None:
        return None
    os.set_inheritable(number, False)
    return [socket.socket(fileno=number)]


if __name__ == "__main__":
    # it takes settings alone: an argument is a mistake, and --help no start
    ArgumentParser("python -m ui", description=__doc__).parse_args()
    sys.exit(main())
