"""The home folder is closed to other users, and one that cannot be used is told in one line."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.home_folder import prepare_home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_private(tmp_path: Path) -> None:
    prepare_home(tmp_path / "a" / "home")
    assert mode(tmp_path / "a" / "home") == 0o700


def test_an_open_home_is_closed_with_its_database_and_logs(tmp_path: Path) -> None:
    for name in ("lcl.db", "lcl.db-wal", "lcl.db-shm", "key", "logs/api.log", "broker/broker.log"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, mode=0o755)
        file.touch()
        file.chmod(0o664)
    runs = tmp_path / "runs"
    runs.mkdir()
    tmp_path.chmod(0o755)
    before = mode(runs)
    prepare_home(tmp_path)
    found = {path.relative_to(tmp_path).as_posix(): mode(path) for path in tmp_path.rglob("*") if path != runs}
    assert {name: bits for name, bits in found.items() if bits & 0o077} == {}
    assert mode(tmp_path) == 0o700
    assert mode(runs) == before, "what lies in a closed folder needs no change"


def test_links_and_shared_folders_keep_their_rights(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.touch(0o644)
    (home / "lcl.db").symlink_to(elsewhere)
    home.chmod(0o1777)
    prepare_home(home)
    assert (mode(home), mode(elsewhere)) == (0o1777, 0o644)


def test_a_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(UserError, match=r"LCL_HOME: .*/home is a file, not a folder") as caught:
        prepare_home(tmp_path / "home")
    assert caught.value.code == "home_unusable"
    with pytest.raises(UserError, match="cannot be made"):
        prepare_home(tmp_path / "home" / "below")


def test_a_read_only_home_is_told(small_disk: Any) -> None:
    small_disk.make_writable(False)
    with pytest.raises(UserError, match="cannot be written; make it writable"):
        prepare_home(small_disk.path)
    with pytest.raises(UserError, match=r"cannot be made \(Read-only file system\)"):
        prepare_home(small_disk.path / "home")


def test_a_home_without_the_right_to_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"LCL_HOME: .* cannot be written"):
        prepare_home(tmp_path)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("api", ()), ("workers", ()), ("deploy.local", ("up",))],
    ids=["api", "worker", "launcher"],
)
def test_every_process_tells_of_an_unusable_home_in_one_line(
    module: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
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
