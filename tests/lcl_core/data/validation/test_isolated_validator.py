"""A process that dies costs the record that it was at, and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.records import CaptionedImage
from lcl_core.data.validation.check import RecordItem, Validator, item_source
from lcl_core.data.validation.report import ValidationLimits
from lcl_core.data.validation.validate import IsolatedValidator, _worker_death_item


def test_the_deadly_record_is_reported_and_all_others_are_checked(deadly: Any) -> None:
    names = ["red.png"] * 100
    names[37] = "deadly.png"
    with isolated(deadly(names)) as (validator, items):
        result = validator.check(items)
    assert result.items == 100
    assert sum(content.reference is None for content in result.contents) == 99
    assert [(issue.file, issue.line, issue.reason) for issue in result.issues] == [("pairs.jsonl", 38, "worker died")]
    assert validator.deaths == 7, "chunks of 100, 50, 25, 13, 6, 3 and 1"


def test_when_they_keep_dying_it_is_given_up(deadly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcl_core.data.validation.validate.MAX_WORKER_DEATHS", 2)
    corpus = deadly(["deadly1.png", "deadly2.png"])
    with isolated(corpus) as (validator, items), pytest.raises(UserError, match="keep dying") as caught:
        validator.check(items)
    assert caught.value.code == "workers_died"


@contextmanager
def isolated(corpus: Any) -> Iterator[tuple[IsolatedValidator, list[Any]]]:
    """A validator of a corpus, and the items of its captioned images."""
    source = item_source(corpus)
    items = [item for section in source.sections() for item in source.read_section(section.key)]
    with IsolatedValidator(partial(Validator, ValidationLimits(), corpus)) as validator:
        yield validator, items


ORPHAN = """
import os, sys
from functools import partial
from lcl_core.data.validation.check import Validator
from lcl_core.data.validation.report import ValidationLimits
from lcl_core.data.validation.validate import IsolatedValidator

if __name__ == "__main__":
    workers = IsolatedValidator(partial(Validator, ValidationLimits()))
    workers.check([])
    print(*workers._pool._processes, flush=True)
    sys.stdin.read()
"""


def test_no_process_outlives_its_parent(tmp_path: Path, eventually: Any) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    root = Path(__file__).parents[4]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    assert children
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    eventually(lambda: not any(Path(f"/proc/{child}/stat").exists() for child in children), "the child has left")


def test_a_sigterm_to_all_processes_of_the_job_does_not_end_these() -> None:
    """The job stops in order. A process that died would be counted, and its records examined again."""
    with IsolatedValidator(partial(Validator, ValidationLimits())) as validator:
        validator.check([])
        for process in validator._pool._processes:
            status = Path(f"/proc/{process}/status").read_text().split()
            assert int(status[status.index("SigIgn:") + 1], 16) & 1 << signal.SIGTERM - 1


def test_a_record_without_a_line_is_reported_by_its_id() -> None:
    died = _worker_death_item(RecordItem("page/three.html", "train", "", CaptionedImage("p")))
    assert (died.file, died.line, died.reason) == ("page/three.html", 0, "worker died")
