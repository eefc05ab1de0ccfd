"""What a team deployment refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import ApiSettings
from lcl_core.errors import UserError

GOOD = "4f0c9a7be1d2835c6a8e7f10"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("", "not set"),
        ("4f0c9a7be1d2835c", "shorter"),
        ("changemechangemechangeme", "default"),
        ("PasswordPassword12345678", "default"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "too simple"),
        ("4f0c9a7be1d2835c6a8e 7f10", "blanks"),
        ("4f0c9a7be1d2835c6a8eü7f10", "ASCII"),
    ],
)
def test_a_weak_admin_key_is_refused(tmp_path: Path, key: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        ApiSettings(home=tmp_path, team=True, admin_key=key).check_secrets()
    assert caught.value.code == "insecure_secret"
    assert key == "" or key not in caught.value.message


@pytest.mark.parametrize("password", ["postgres", "password", "changeme1", "lcl"])
def test_a_well_known_database_password_is_refused(tmp_path: Path, password: str) -> None:
    url = f"postgresql+psycopg://lcl:{password}@db/lcl"
    with pytest.raises(UserError, match="LCL_DATABASE_URL"):
        ApiSettings(home=tmp_path, team=True, admin_key=GOOD, database_url=url).check_secrets()


def test_good_secrets_pass_and_the_embedded_default_needs_none(tmp_path: Path) -> None:
    url = "postgresql+psycopg://lcl:9f8e7d6c5b4a@db/lcl"
    ApiSettings(home=tmp_path, team=True, admin_key=GOOD, database_url=url).check_secrets()
    ApiSettings(home=tmp_path).check_secrets()


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    assert GOOD not in repr(ApiSettings(home=tmp_path, admin_key=GOOD))


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCL_API_PORT", "9999")
    monkeypatch.setenv("LCL_TEAM", "1")
    monkeypatch.setenv("LCL_DATA_ROOTS", "/srv/data:/more")
    settings = ApiSettings()
    assert (settings.api_port, settings.team) == (9999, True)
    assert settings.data_roots == [Path("/srv/data"), Path("/more")]
    monkeypatch.setenv("LCL_DATA_ROOTS", '["/srv/data"]')
    assert ApiSettings().data_roots == [Path("/srv/data")]
