"""``python -m ui``: serve the page."""

from __future__ import annotations

import os
import sys
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

    from ui.settings import UiSettings, told

    try:
        settings = UiSettings()
    except ValidationError as error:
        print(f"error: {told(error)}", file=sys.stderr)  # noqa: T201
        return 2
    _serve(settings)
    return 0


def _serve(settings: UiSettings) -> None:
    import uvicorn

    from api.client import Client
    from ui.app import build_app
    from ui.visitors import OwnKey, Visitors

    visitors = Visitors(settings.session_hours * 3600) if settings.team else None
    with Client(key=OwnKey(visitors) if visitors else None, attempts=2) as client:
        uvicorn.run(
            build_app(client, settings, visitors),
            host=settings.host,
            port=settings.port,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            log_level="warning",
            timeout_graceful_shutdown=3,
        )


if __name__ == "__main__":
    sys.exit(main())
