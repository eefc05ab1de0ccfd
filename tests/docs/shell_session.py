"""A reader's terminal: the shell blocks of a page as one script, against a service whose runs this process does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lcl_core.db import queue
from lcl_core.db.leases import Claim
from lcl_core.db.studies import list_studies
from tests.api.service_fixture import Json, ServiceFixture, do_claim
from tests.docs.code_blocks import Block

# What each page needs of the service besides its own commands: ids that only the service knows.
PROLOGUE = """
set -euo pipefail
trap 'echo "$0:$LINENO: $BASH_COMMAND" >&2' ERR
ask_service() {
  curl -sSf -H "Authorization: Bearer $LCL_API_KEY" "$LCL_API_URL/v1/$1" | grep -oEm1 "$2" | sed -n 1p
}
newest_run() { ask_service 'runs?limit=1' 'run_[0-9a-z]+'; }
newest_key() { ask_service keys 'lcl_[0-9a-f]{12}' ; }
an_item() { ask_service 'collections/drawings/items?limit=1' 'img_[0-9a-f]+'; }
"""


def script_of(blocks: Sequence[Block], left_out: Mapping[str, str], said: Mapping[str, str]) -> str:
    """The commands of a page, each on its own line of the page, so that an error of the shell names that line.

    Args:
        left_out: patterns of commands that are not run.
        said: patterns of what stands for something, and what replaces them.
    """
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        for command in commands(block.text):
            if any(re.search(pattern, command) for pattern in left_out):
                command = "\n" * command.count("\n")
            for pattern, value in said.items():
                command = re.sub(pattern, value, command)
            lines += command.split("\n")
    return "\n".join(lines) + "\n"


def commands(text: str) -> Iterator[str]:
    """The lines of a block, joined where a command has several, without the last line feed."""
    whole: list[str] = []
    end = ""
    for line in text.splitlines():
        whole.append(line)
        if here := re.search(r"<<(\w+)", line):
            end = here[1]
        elif line.strip() == end:
            end = ""
        if not end and not line.endswith("\\"):
            yield "\n".join(whole)
            whole = []
    assert not whole, text


class Terminal:
    """Runs scripts in ``folder``. Runs that they submit are done here, small, while they wait."""

    def __init__(self, service: ServiceFixture, folder: Path, small: Callable[[str, Json], Json]) -> None:
        """``small``: for a kind of run and its spec, the spec that is done instead."""
        self._service = service
        self._small = small
        with service.context.database.session() as session:
            self._ended = {study.id for study in list_studies(session).items}
        self.folder = folder
        self.prologue = folder / ".prologue"
        self.prologue.write_text(PROLOGUE, encoding="utf-8")
        (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LCL_")}
        self._environment = {
            **kept,
            "BASH_ENV": str(self.prologue),
            "BROWSER": "true",
            "HOME": str(folder),
            "NO_PROXY": "*",
            "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",
            "LCL_API_URL": service.url,
            "LCL_API_KEY": (service.home / "key").read_text().strip(),
        }

    def run(self, script: str, name: str) -> str:
        """What it printed. Raises: AssertionError naming the line that failed."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
        output, errors = self.folder / "stdout", self.folder / "stderr"
        with output.open("wb") as out, errors.open("wb") as err:
            shell = subprocess.Popen(
                ["bash", name], cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
            try:
                while shell.poll() is None:
                    if not self._do_next():
                        time.sleep(0.02)  # polls a process and a queue
            finally:
                shell.kill()
                shell.wait()
        printed = output.read_text(encoding="utf-8")
        assert shell.returncode == 0, f"{printed}\n{errors.read_text(encoding='utf-8')}"
        return printed

    def _do_next(self) -> bool:
        """Do the next run of the queue, or end a study; False: there is neither."""
        database = self._service.context.database
        with database.session() as session:
            begun = [study.id for study in list_studies(session).items if study.id not in self._ended]
        for study in begun:  # its tens of runs would take minutes
            self._ended.add(study)
            self._service.end_study(study, AnyValue())
        with database.session() as session:
            claim = queue.claim_next(session, "worker-1", offers=("cpu",))
        if not isinstance(claim, Claim):  # none, or a place in a run of several machines
            return bool(begun)
        do_claim(self._service, replace(claim, spec=self._small(claim.kind, claim.spec)))
        return True


class AnyValue(dict[tuple[str, int], float]):
    """A value for whatever cell of a study."""

    def __missing__(self, cell: tuple[str, int]) -> float:
        return 0.1 + 0.01 * cell[1]
