"""``python -m workers``: one worker, set up by ``LCL_*`` environment variables.

Exit status 2: the settings are wrong; 1: the database or the home folder cannot be used. Standard error says which in
one line.
"""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy.exc import SQLAlchemyError

from lcl_core.errors import UserError
from lcl_core.home_folder import open_home, private_umask
from lcl_core.offline import forbid_downloads
from lcl_core.setting_names import check_names
from lcl_core.settings import misconfiguration
from workers.logs import configure_logs
from workers.settings import WorkerSettings
from workers.worker import WorkerProcess


def main() -> int:
    forbid_downloads()
    try:
        for warning in check_names(os.environ):
            print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
        settings = WorkerSettings()
        configure_logs(settings.log_format)
        open_home(settings.home)
        return WorkerProcess(settings).run()
    except ValidationError as error:
        return _complain(misconfiguration(error), 2)
    except SettingsError as error:
        return _complain(str(error), 2)
    except UserError as error:
        return _complain(str(error), 1 if error.code == "home_unusable" else 2)
    except (SQLAlchemyError, OSError) as error:
        return _complain(str(error), 1)


def _complain(message: str, status: int) -> int:
    print(f"error: {message.splitlines()[0]}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    private_umask()
    sys.exit(main())
