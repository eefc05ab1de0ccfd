"""Archives are checked, unpacked once, and fetched by their own clients when that is asked for."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.dataset_builder.packages import PackageCache, apt, npm

NPM = npm("@team/set", "1.2", "", "icons.json")
APT = apt("x-doc", "1:2-3", "", "usr/share/x/")


def refused(call: Any, *arguments: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return caught.value


def test_a_package_is_unpacked_once_and_only_what_is_wanted(kit: Any, said: Any) -> None:
    lines, say = said
    package = kit.pack(APT, {"usr/share/x/a": "a", "usr/share/y/b": "b", "usr/share/doc/x-doc/copyright": "(c)"})
    cache = PackageCache(kit.cache, False, say)
    cache.require([package])
    files = cache.files_of(package)
    found = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
    assert found == {"usr/share/x/a", "usr/share/doc/x-doc/copyright"}
    (kit.cache / package.file).unlink()
    cache.require([package])
    assert cache.files_of(package) == files
    assert lines == [f"unpacking {package.file}"]
    assert refused(cache.require, [replace(package, parts=("usr/share/y/",))]).code == "packages_missing"


def test_what_is_missing_is_listed_with_the_way_out(kit: Any, said: Any) -> None:
    error = refused(PackageCache(kit.cache, False, said[1]).require, [NPM, APT])
    assert error.code == "packages_missing"
    assert "team-set-1.2.tgz, x-doc_1%3a2-3_all.deb" in error.message
    assert "--fetch" in error.message


def test_an_archive_of_other_bytes_is_refused_and_nothing_is_unpacked(kit: Any, said: Any) -> None:
    package = kit.pack(NPM, {"icons.json": "{}"})
    (kit.cache / package.file).write_bytes(kit.tgz_of({"icons.json": "[]"}))
    assert refused(PackageCache(kit.cache, False, said[1]).files_of, package).code == "package_differs"
    assert [path.name for path in kit.cache.iterdir()] == [package.file]


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for npm and apt-get on the path: they note what they are asked and copy what lies in ``store``."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "store").mkdir()
    program = f"""#!{sys.executable}
import os, shutil, sys
store = {str(tmp_path / "store")!r}
with open(os.path.join({str(tmp_path)!r}, "asked"), "a") as file:
    file.write(" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if not os.listdir(store):
    sys.exit("npm notice\\nE404 no such package")
for name in os.listdir(store):
    shutil.copy(os.path.join(store, name), name)
"""
    for name in ("npm", "apt-get"):
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("package", "requested"),
    [
        (NPM, "npm pack @team/set@1.2 --silent"),
        (APT, "apt-get download -q -o APT::Sandbox::User=root x-doc=1:2-3"),
    ],
)
def test_each_client_is_asked_for_the_pinned_version(
    kit: Any, said: Any, clients: Path, tmp_path: Path, package: Any, requested: str
) -> None:
    pinned = kit.pack(package, {"icons.json": "{}"})
    os.replace(kit.cache / package.file, clients / package.file)
    cache = PackageCache(kit.cache, True, said[1])
    cache.require([pinned])
    cache.require([pinned])
    assert (tmp_path / "asked").read_text() == f"{requested}\n"
    assert [path.name for path in kit.cache.iterdir()] == [package.file]
    assert cache.files_of(pinned).is_dir()


def test_what_was_fetched_must_be_what_was_pinned(kit: Any, said: Any, clients: Path) -> None:
    (clients / NPM.file).write_bytes(b"something else")
    assert refused(PackageCache(kit.cache, True, said[1]).require, [NPM]).code == "package_differs"
    assert list(kit.cache.iterdir()) == []


def test_a_client_that_fails_is_quoted(kit: Any, said: Any, clients: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(PackageCache(kit.cache, True, said[1]).require, [NPM])
    assert (error.code, "E404 no such package" in error.message) == ("fetch_failed", True)
    (clients / "other.tgz").write_bytes(b"")
    assert "did not bring" in refused(PackageCache(kit.cache, True, said[1]).require, [NPM]).message
    monkeypatch.setenv("PATH", "/absent")
    assert "apt-get is not installed" in refused(PackageCache(kit.cache, True, said[1]).require, [APT]).message
