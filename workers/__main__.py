"""``python -m workers``: one worker, set up by ``LCL_*`` environment variables."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from lcl_core.offline import forbid_downloads
from lcl_core.settings import misconfiguration
from workers.logs import configure_logs
from workers.settings import WorkerSettings
from workers.worker import WorkerProcess


def main() -> None:
    forbid_downloads()
    try:
        settings = WorkerSettings()
        configure_logs(settings.log_format)
        sys.exit(WorkerProcess(settings).run())
    except ValidationError as error:
        sys.exit(f"error: {misconfiguration(error)}")
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
