"""What the chapter on backups in the operations' handbook says to do brings everything back."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lcl_core.common.settings import OPEN_FOLDERS
from lcl_core.db.models import OUTPUT_FOLDERS, UPLOADS_FOLDER

pytestmark = pytest.mark.extended

HANDBOOK = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
KEPT_FOLDERS = {"runs", *OUTPUT_FOLDERS, *OPEN_FOLDERS, UPLOADS_FOLDER}
SECRETS = {"key", "page-token", "webhook.key"}
DERIVED_FOLDERS = {"broker", "cache/features", "logs"}


def archive_command(mode, home):
    """The command of the handbook that makes (``-cf``) or reads (``-xf``) the archive of ``home``."""
    (line,) = re.findall(
        rf"^docker compose run --rm -T --no-deps api (tar .*{mode} - .*)[<>] home\.tar$", HANDBOOK, re.M
    )
    return shlex.split(line.replace("/var/lib/lcl", str(home)))


def pack(home, archive):
    with archive.open("wb") as out:
        subprocess.run(archive_command("-cf", home), stdout=out, check=True)


def unpack(archive, home):
    home.mkdir()
    with archive.open("rb") as packed:
        subprocess.run(archive_command("-xf", home), stdin=packed, check=True)


@pytest.mark.parametrize("missing", ["", "datasets"])
def test_the_archive_has_all_that_cannot_be_computed_again(tmp_path, missing):
    """Also on an installation that lacks a folder, which the first run that needs it makes."""
    home, again = tmp_path / "home", tmp_path / "again"
    kept = {f"{folder}/{folder}/file" for folder in KEPT_FOLDERS - {missing}} | SECRETS
    nested = {"runs/run_1/cache/file", "runs/run_1/logs/file"}
    for place in kept | nested | {f"{folder}/file" for folder in DERIVED_FOLDERS}:
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text(place)
    pack(home, tmp_path / "home.tar")
    unpack(tmp_path / "home.tar", again)
    assert {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()} == kept | nested
