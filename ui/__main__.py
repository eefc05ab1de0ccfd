"""``python -m ui``: serve the page."""

from __future__ import annotations

import os
import sys

# Before gradio is imported: nothing is reported to anyone and nothing is fetched.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> int:
    """Serve until interrupted. The API's address and key come from ``LCL_API_URL`` and ``LCL_API_KEY``."""
    import uvicorn

    from api.client import Client
    from ui.app import build_app
    from ui.settings import UiSettings

    settings = UiSettings()
    with Client(attempts=2) as client:
        uvicorn.run(
            build_app(client, settings),
            host=settings.host,
            port=settings.port,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            log_level="warning",
            timeout_graceful_shutdown=3,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
