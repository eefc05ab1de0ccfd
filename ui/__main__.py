"""``python -m ui``: serve the page."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ui.settings import UiSettings

# Before gradio is imported: nothing is reported to anyone and nothing is fetched.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")


def main() -> int:
    """Serve until interrupted. The API's address comes from ``LCL_API_URL``.

    The key comes from ``LCL_API_KEY`` or the home folder; in a team (``LCL_TEAM``) from each visitor. Exit status 2:
    the settings are wrong; standard error says which in one line.
    """
    from pydantic import ValidationError

    from ui.settings import UiSettings, format_validation_error

    try:
        settings = UiSettings()
    except ValidationError as error:
        print(f"error: {format_validation_error(error)}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        settings = _with_own_token(settings)
    except OSError as error:
        print(f"error: LCL_HOME: the page's token cannot be kept there: {error}", file=sys.stderr)  # noqa: T201
        return 2
    _serve(settings)
    return 0


def _serve(settings: UiSettings) -> None:
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="lcl-page-") as folder:  # 0700: other users of the machine stay out
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        from api.client import Client
        from ui.app import build_app
        from ui.sessions import SessionKeyAuth, SessionStore

        visitors = SessionStore(settings.session_hours * 3600) if settings.team else None
        with Client(key=SessionKeyAuth(visitors) if visitors else None, attempts=2) as client:
            config = uvicorn.Config(
                build_app(client, settings, visitors),
                host=settings.host,
                port=settings.port,
                forwarded_allow_ips=settings.forwarded_allow_ips,
                log_level="warning",
                timeout_graceful_shutdown=3,
            )
            server = uvicorn.Server(config)
            with contextlib.suppress(KeyboardInterrupt):
                server.run(_inherited(settings.socket))
    if not server.started:
        sys.exit(3)  # the port cannot be had


def _inherited(number: int | None) -> list[socket.socket] | None:
    """The socket that the launcher listens on, so that nobody else gets its port while we are not there."""
    if number is None:
        return None
    os.set_inheritable(number, False)
    return [socket.socket(fileno=number)]


def _with_own_token(settings: UiSettings) -> UiSettings:
    """Started alone on one machine: take the token of the home folder, and print the address that it makes.

    Whoever gave the token in the settings, as the launcher does, prints the address; this output may be a log.
    """
    from ui.token_file import default_home, load_or_create_token, url_with_token

    if settings.team or settings.token is not None:
        return settings
    token = load_or_create_token(default_home())
    print(f"page  {url_with_token(f'http://127.0.0.1:{settings.port}', token)}", flush=True)  # noqa: T201
    return settings.model_copy(update={"token": token})


if __name__ == "__main__":
    sys.exit(main())
