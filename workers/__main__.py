"""``python -m workers``: one worker, set up by ``LCL_*`` environment variables."""

from __future__ import annotations

from workers.logs import configure_logs
from workers.settings import WorkerSettings
from workers.worker import WorkerProcess


def main() -> None:
    settings = WorkerSettings()
    configure_logs(settings.log_format)
    WorkerProcess(settings).run()


if __name__ == "__main__":
    main()
