"""All settings of one machine's service, looked at before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from api.settings import ApiSettings
from lcl_core.errors import UserError
from lcl_core.setting_names import check_names
from lcl_core.settings import misconfiguration
from ui.settings import UiSettings, told
from workers.settings import WorkerSettings


def check_settings(home: Path) -> list[str]:
    """Check what api, worker and page would read from this environment.

    Returns: warnings, one line each, about variables that no setting has.
    Raises: UserError ``bad_setting`` or ``insecure_secret`` naming the variable, in one line.
    """
    warnings = check_names(os.environ)
    try:
        ApiSettings(home=home).check_secrets()
        WorkerSettings(home=home)
    except ValidationError as error:
        raise UserError(misconfiguration(error), code="bad_setting") from error
    except SettingsError as error:
        raise UserError(str(error).splitlines()[0], code="bad_setting") from error
    try:
        UiSettings()
    except ValidationError as error:
        raise UserError(told(error), code="bad_setting") from error
    return warnings
