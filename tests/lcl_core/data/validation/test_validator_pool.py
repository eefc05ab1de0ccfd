"""A process that dies costs the record that it was at, and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.records import CaptionedImage
from lcl_core.data.validation.check import RecordItem, Validator
from lcl_core.data.validation.report import ValidationLimits
from lcl_core.data.validation.validate import ValidatorPool, _worker_death_item, validate

DEADLY = '''
import os

from lcl_core.data import open_corpus


class Deadly:
    """A corpus whose reader kills its process at some names."""

    def __init__(self, path):
        self.inner = open_corpus(path)
        self.path, self.documents, self.all_pairs = self.inner.path, self.inner.documents, self.inner.all_pairs

    def __reduce__(self):
        return Deadly, (self.inner.path,)

    def image_bytes(self, name):
        if name.startswith("deadly"):
            os._exit(9)
        return self.inner.image_bytes(name)
'''


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kit: Any) -> Any:
    """Makes a corpus of captioned images whose deadly ones end whoever reads them."""
    (tmp_path / "deadly_corpus.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(names: list[str]) -> Any:
        from deadly_corpus import Deadly  # type: ignore[import-not-found]

        return Deadly(kit.corpus(pairs=[kit.pair(name, f"{place}") for place, name in enumerate(names)]).path)

    return make


def test_the_deadly_record_is_listed_and_all_others_are_examined(deadly: Any) -> None:
    names = ["red.png"] * 100
    names[37] = "deadly.png"
    report = validate(deadly(names), workers=2)
    assert report.reasons == {"worker died": 1}
    assert (report.first[0].file, report.first[0].line) == ("pairs.jsonl", 38)
    assert report.documents == 99
    assert report.worker_deaths >= 1


def test_when_they_keep_dying_it_is_given_up(deadly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcl_core.data.validation.validate.MAX_WORKER_DEATHS", 2)
    with pytest.raises(UserError, match="keep dying") as caught:
        validate(deadly(["deadly1.png", "deadly2.png"]), workers=1)
    assert caught.value.code == "workers_died"


ORPHAN = """
import os, sys
from functools import partial
from lcl_core.data.validation.check import Validator
from lcl_core.data.validation.report import ValidationLimits
from lcl_core.data.validation.validate import ValidatorPool

if __name__ == "__main__":
    workers = ValidatorPool(1, partial(Validator, ValidationLimits()))
    list(workers.check([[]]))
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
    with ValidatorPool(1, partial(Validator, ValidationLimits())) as pool:
        list(pool.check([[]]))
        assert pool._pool is not None
        for process in pool._pool._processes:
            status = Path(f"/proc/{process}/status").read_text().split()
            assert int(status[status.index("SigIgn:") + 1], 16) & 1 << signal.SIGTERM - 1


def test_a_record_without_a_line_is_reported_by_its_id() -> None:
    died = _worker_death_item(RecordItem("page/three.html", "train", "", CaptionedImage("p")))
    assert (died.file, died.line, died.reason) == ("page/three.html", 0, "worker died")
