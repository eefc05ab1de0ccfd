"""The registry of executors: the local one needs nothing, another one names what it lacks."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from lcl_core.common.errors import UserError
from workers.executors.base import EXECUTORS, create_executor
from workers.settings import WorkerSettings


def test_the_setting_names_what_is_registered():
    assert set(get_args(WorkerSettings.model_fields["executor"].annotation)) == set(EXECUTORS)


def test_an_executor_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "workers.executors.ray", raising=False)
    with pytest.raises(UserError, match=r"pip install 'lcl\[ray\]'") as caught:
        create_executor(WorkerSettings(executor="ray"))
    assert caught.value.code == "executor_missing"


def test_a_worker_that_runs_jobs_here_does_not_import_ray():
    code = "import sys, workers.worker; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
