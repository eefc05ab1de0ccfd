"""Places that may be named in a request: inside the roots, and written in the one form."""

import os
import stat
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from lcl_core.common.errors import UserError
from lcl_core.common.paths import parse_roots, prepare_home, resolve_allowed
from lcl_core.common.settings import Settings

ROOTS = ["s3://bucket/team", "https://data.example.org:8443/sets", "memory://whole"]


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/team",
        "s3://bucket/team/wiki",
        "s3://bucket/team/a b/ü@home/v1..2/x",
        "https://data.example.org:8443/sets/wiki%20one",
        "memory://whole/x",
    ],
)
def test_what_lies_below_a_root_passes_as_it_stands(url):
    assert resolve_allowed(url, ROOTS) == resolve_allowed(f"{url}/", ROOTS) == url


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/teams",
        "s3://bucket/team-secret/x",
        "s3://other/team/x",
        "gs://bucket/team/x",
        "https://data.example.org/sets/x",
        "https://data.example.org:8443.evil.org/sets/x",
        "file://etc/passwd",
        "memory://whole.evil/x",
    ],
)
def test_what_lies_elsewhere_is_refused_with_the_way_out(url):
    with pytest.raises(UserError, match="LCL_DATA_ROOTS") as caught:
        resolve_allowed(url, ROOTS, "to")
    assert (caught.value.code, caught.value.field) == ("invalid_value", "to")
    assert "s3://bucket/team" in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/team/../other",
        "s3://bucket/team/./x",
        "s3://bucket/team//x",
        "s3://bucket/team/..",
        "s3://bucket/team/%2e%2e/other",
        "s3://bucket/team/%252e%252e/other",
        "s3://bucket/team/x%2f..%2f..",
        "s3://bucket/team/x%00",
        "s3://bucket/team\\..\\x",
        "s3://bucket/team/x\n",
        "s3://key:sesame@bucket/team/x",
        "https://data.example.org:8443@evil.org/sets/x",
        "https://data.example.org:8443%40evil.org/sets/x",
        "https://dаta.example.org:8443/sets/x",  # the second letter is Cyrillic
        "https://data.example.org:8443/sets/x?sesame",
        "https://data.example.org:8443/sets/x#sesame",
        "simplecache::s3://bucket/team/x",
        "zip://x::s3://bucket/team/sesame.zip",
        "S3://bucket/team/x",
        "s3:///bucket/team",
        "file:///etc/passwd",
        "://bucket/team",
        "/srv/s3://bucket/team",
    ],
)
def test_a_url_that_could_mean_two_things_is_refused_and_not_repeated(url):
    with pytest.raises(UserError, match="the URL ") as caught:
        resolve_allowed(url, ROOTS)
    assert (caught.value.code, caught.value.field) == ("invalid_value", "path")
    assert "sesame" not in str(caught.value)


def test_a_folder_is_no_root_of_urls_and_the_other_way_round(tmp_path):
    for path in ("s3:/bucket/team", str(tmp_path / "s3:" / "bucket" / "team")):
        with pytest.raises(UserError):
            resolve_allowed(path, ROOTS)
    (tmp_path / "s3:").mkdir()
    assert resolve_allowed(tmp_path / "s3:", [*ROOTS, tmp_path]) == tmp_path / "s3:"


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("", []),
        ("/a::/b:", ["/a", "/b"]),
        ("s3://b", ["s3://b"]),
        ("~/c:s3://b/x:gs://d/y:relative", ["~/c", "s3://b/x", "gs://d/y", "relative"]),
        ("http://127.0.0.1:9000/b:/2024", ["http://127.0.0.1:9000/b", "/2024"]),
        ('["s3://b/with:colon", "/a"]', ["s3://b/with:colon", "/a"]),
    ],
)
def test_a_list_is_parted_at_the_colons_that_part_it(text, listed):
    assert parse_roots(text) == listed


@pytest.mark.parametrize(
    "path",
    [
        "x",
        "./x",
        "~/x",
        "~nobody-here/x",
        "",
        "x\0y",
        "/a\0b",
        "/\ud800",
        "/" + "x" * 300,
        "/" + "x/" * 3000,
        "file:/x",
    ],
)
def test_a_path_that_is_none_is_refused_in_words(tmp_path, path):
    with pytest.raises(UserError) as caught:
        resolve_allowed(path, [tmp_path], "data.path")
    assert (caught.value.code, caught.value.field) == ("invalid_value", "data.path")
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize(
    ("root", "artifacts", "overlap"),
    [
        ("s3://b/team", "s3://b/team/artifacts", True),
        ("s3://b/team/data", "s3://b/team", True),
        ("s3://b/team", "s3://b/team", True),
        ("s3://b/team", "s3://b/team2", False),
        ("s3://b/data", "s3://b/artifacts", False),
        ("gs://b/team", "s3://b/team", False),
        ("/data", "file:///data/lcl", True),
        ("/data/lcl/x", "file:///data/lcl", True),
        ("/data", "file:///mnt/lcl", False),
        ("/data", "s3://b/data", False),
    ],
)
def test_a_root_must_not_open_the_store_of_artifacts(tmp_path, root, artifacts, overlap):
    given: dict[str, Any] = {"home": tmp_path, "data_roots": [root], "artifacts": f"{artifacts}/"}
    if not overlap:
        assert Settings(**given).artifacts == artifacts
        return
    with pytest.raises(ValidationError, match="overlap"):
        Settings(**given)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_private_unless_users_share_it(tmp_path):
    prepare_home(tmp_path / "a" / "home")
    assert mode(tmp_path / "a" / "home") == 0o700
    for before, after in ((0o775, 0o700), (0o1777, 0o1777)):
        tmp_path.chmod(before)
        prepare_home(tmp_path)
        assert mode(tmp_path) == after


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("api", ()), ("deploy.local", ("up",))],
    ids=["api", "launcher"],
)
def test_every_process_tells_of_an_unusable_home_in_one_line(module, arguments, tmp_path):
    (tmp_path / "home").touch()
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "LCL_HOME": str(tmp_path / "home"), "LCL_API_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: LCL_HOME: {tmp_path / 'home'} is a file")
    assert len(done.stderr.splitlines()) == 1, done.stderr
