"""What a team deployment refuses to start with."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from api.core.settings import ApiSettings
from lcl_core.common.errors import UserError

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
def test_a_weak_admin_key_is_refused(tmp_path, key, what):
    with pytest.raises(UserError, match=what) as caught:
        ApiSettings(home=tmp_path, team=True, admin_key=key).check_secrets()
    assert caught.value.code == "bad_setting"
    assert key == "" or key not in caught.value.message


@pytest.mark.parametrize("password", ["postgres", "password", "changeme1", "lcl"])
def test_a_well_known_database_password_is_refused(tmp_path, password):
    url = f"postgresql+psycopg://lcl:{password}@db/lcl"
    with pytest.raises(UserError, match="LCL_DATABASE_URL"):
        ApiSettings(home=tmp_path, team=True, admin_key=GOOD, database_url=url).check_secrets()


def test_good_secrets_pass_and_the_embedded_default_needs_none(tmp_path):
    url = "postgresql+psycopg://lcl:9f8e7d6c5b4a@db/lcl"
    ApiSettings(home=tmp_path, team=True, admin_key=GOOD, database_url=url).check_secrets()
    ApiSettings(home=tmp_path).check_secrets()


def test_roots_are_folders_and_prefixes_of_urls(monkeypatch, tmp_path):
    monkeypatch.setenv("LCL_DATA_ROOTS", "/srv/data:s3://bucket/team/:https://data.example.org:8443/sets:/more")
    settings = ApiSettings(home=tmp_path)
    urls = ["s3://bucket/team", "https://data.example.org:8443/sets"]
    assert settings.data_roots == [Path("/srv/data"), *urls, Path("/more")]
    own = [tmp_path / name for name in ("data", "datasets", "encoders")]
    assert settings.roots == [*own, *settings.data_roots]
    assert settings.folders == [*own, Path("/srv/data"), Path("/more")]
    assert settings.protocols == {"s3", "https"}
    assert ApiSettings(home=tmp_path, data_roots=["s3://b", Path("/x")]).data_roots == ["s3://b", Path("/x")]


@pytest.mark.parametrize("root", ["s3://", "file:///srv", "simplecache::s3://b", "s3://k:sesame@b", "s3://b/../c"])
def test_a_root_that_could_mean_two_things_is_refused(root):
    with pytest.raises(ValidationError, match="a URL among the roots") as caught:
        ApiSettings(data_roots=[root])
    assert "sesame" not in caught.value.errors(include_input=False)[0]["msg"]


@pytest.mark.parametrize("root", ["/", ".", "home", "home/runs", "home/cache/x", "link"])
def test_a_root_that_opens_the_services_home_is_refused(tmp_path, root):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home" / "..")
    with pytest.raises(ValidationError, match=r"LCL_DATA_ROOTS: .* opens LCL_HOME"):
        ApiSettings(home=tmp_path / "home", data_roots=[tmp_path / root])
    beside = [tmp_path / "data", tmp_path / "home" / "incoming", "s3://b"]
    assert ApiSettings(home=tmp_path / "home", data_roots=beside).data_roots == beside
