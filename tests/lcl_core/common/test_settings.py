"""Settings that make no sense stop the start, and say which variable it is."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

import api.cli
from api.core.settings import ApiSettings
from lcl_core.common.errors import UserError
from lcl_core.common.settings import KNOWN_NAMES, Settings, check_setting_names, settings_error_message
from ui.settings import UiSettings
from workers.settings import WorkerSettings

DURATIONS = [name for name in WorkerSettings.model_fields if name.endswith("_seconds")]
MAY_BE_NONE = ("cancel_grace_seconds", "gc_grace_seconds")  # 0: no grace at all


def refused(settings, **given):
    with pytest.raises(ValidationError) as caught:
        settings(**given)
    return settings_error_message(caught.value)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf"), "1e300"])
def test_a_duration_is_a_number_above_zero(name, value):
    if value == 0 and name in MAY_BE_NONE:
        assert getattr(WorkerSettings(**{name: 0}), name) == 0
        return
    assert refused(WorkerSettings, **{name: value}).startswith(f"LCL_{name.upper()}: ")


@pytest.mark.parametrize(("lease", "heartbeat"), [(5, 60), (20, 10), (10, 10)])
def test_a_lease_outlives_a_heartbeat_that_is_late(lease, heartbeat):
    said = refused(Settings, lease_seconds=lease, heartbeat_seconds=heartbeat)
    assert said.startswith(
        f"LCL_HEARTBEAT_SECONDS ({heartbeat}) must be at most a quarter of LCL_LEASE_SECONDS ({lease})"
    )
    assert Settings(lease_seconds=lease, heartbeat_seconds=lease / 4).lease_seconds == lease


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "postgresql://u@h/db", "postgres://u:sesame@h/db", "lcl.db", "oracle://"]
)
def test_other_databases_are_refused(url):
    said = refused(Settings, database_url=url)
    assert said.startswith("LCL_DATABASE_URL: only sqlite and postgresql+psycopg are supported")
    assert "sesame" not in said


def test_a_malformed_database_url_is_reported_without_its_password():
    said = refused(Settings, database_url="postgresql+psycopg://u:sesame@h:port/db")
    assert said.startswith("LCL_DATABASE_URL: is no address such as")
    assert "sesame" not in said


def test_the_list_of_names_is_that_of_the_settings():
    """A new setting is added to lcl_core/common/settings.py, or a typing error in its name would pass unseen."""
    fields = {f"LCL_{name.upper().rstrip('_')}" for kind in (ApiSettings, WorkerSettings) for name in kind.model_fields}
    fields |= {f"LCL_UI_{name.upper()}" for name in UiSettings.model_fields if name != "team"}
    assert fields - KNOWN_NAMES == set()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("LCL_LEASE_SECOND", "LCL_LEASE_SECONDS"),
        ("LCL_HOM", "LCL_HOME"),
        ("LCL_ADMINKEY", "LCL_ADMIN_KEY"),
        ("LCL_DATA_ROOT", "LCL_DATA_ROOTS"),
        ("lcl_worker_slot", "LCL_WORKER_SLOTS"),
        ("LCL_DATEBASE_URL", "LCL_DATABASE_URL"),
    ],
)
def test_a_misspelt_setting_stops_the_start(given, meant):
    with pytest.raises(UserError) as caught:
        check_setting_names({given: "sesame", "PATH": "/bin"})
    assert str(caught.value) == f"{given} is not a setting; did you mean {meant}?"


def test_a_strange_variable_is_warned_of():
    (warning,) = check_setting_names({"LCL_TYPO": "sesame", "LCL_HOME": "/x", "lcl_team": "1", "HOME": "/root"})
    assert warning.startswith("LCL_TYPO is not a setting and has no effect")
    assert "sesame" not in warning


def test_a_name_that_the_command_line_reads_from_the_environment_is_known():
    """The processes of the service share it, and would warn that it has no effect."""
    sources = [path.read_text(encoding="utf-8") for path in Path(api.cli.__file__).parent.glob("*.py")]
    named = {name for text in sources for name in re.findall(r"\bLCL_[A-Z_]*[A-Z]\b", text)}
    assert "LCL_API_URL" in named
    assert check_setting_names(dict.fromkeys(named, "x")) == []


def test_a_worker_whose_signs_of_life_would_come_too_late_does_not_start():
    with pytest.raises(ValidationError, match="reap_seconds"):
        WorkerSettings(reap_seconds=60)


def test_a_worker_whose_checks_would_outlast_a_lease_does_not_start():
    assert WorkerSettings(lease_seconds=60, heartbeat_seconds=10, watch_seconds=37).watch_seconds == 37
    with pytest.raises(ValidationError, match="LCL_WATCH_SECONDS"):
        WorkerSettings(lease_seconds=60, heartbeat_seconds=10, watch_seconds=38)
