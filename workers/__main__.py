"""``python -m workers``: one worker, configured by ``LCL_*`` environment variables.

Exit status 2: wrong settings; 1: the database or the home folder is unusable. Standard error says which in one line.
With ``--check``: 0 while a worker of this host sends heartbeats.
"""

from __future__ import annotations

import os
import socket
import sys
from argparse import ArgumentParser

from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy.exc import SQLAlchemyError

from lcl_core.common.errors import UserError
from lcl_core.common.paths import prepare_home, private_umask
from lcl_core.common.processes import forbid_downloads
from lcl_core.common.settings import check_setting_names, settings_error_message
from lcl_core.db.runs import list_workers
from lcl_core.db.session import Database, now
from lcl_core.db.workers import ALIVE_WITHIN
from workers.settings import WorkerSettings
from workers.worker import WorkerProcess, configure_logging

_UNUSABLE = ("home_unusable", "executor_unreachable", "database_newer")  # no setting is wrong


def main(*, check: bool) -> int:
    forbid_downloads()
    try:
        for warning in check_setting_names(os.environ):
            print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
        settings = WorkerSettings()
        if check:
            host = socket.gethostname()
            with Database(settings.resolved_database_url).reading() as session:
                oldest = now(session) - ALIVE_WITHIN
                alive = any(worker.host == host and worker.seen_at >= oldest for worker in list_workers(session))
            return 0 if alive else _print_error("no worker of this host has been seen lately", 1)
        configure_logging(settings.log_format)
        prepare_home(settings.home)
        return WorkerProcess(settings).run()
    except ValidationError as error:
        return _print_error(settings_error_message(error), 2)
    except SettingsError as error:
        return _print_error(str(error), 2)
    except UserError as error:
        return _print_error(str(error), 1 if error.code in _UNUSABLE else 2)
    except (SQLAlchemyError, OSError) as error:
        return _print_error(str(error), 1)


def _print_error(message: str, status: int) -> int:
    print(f"error: {message.splitlines()[0]}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    parser = ArgumentParser("python -m workers", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether a worker of this host is alive")
    check = parser.parse_args().check
    private_umask()
    sys.exit(main(check=check))
