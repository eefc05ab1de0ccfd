"""A home keeps its id, whoever asks first."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lcl_core.db.artifacts import home_id


def test_it_is_made_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(home_id, [home] * 32))
    assert len(ids) == 1
    assert len(ids.pop()) == 32
    assert [path.name for path in (home / "runs").iterdir()] == [".home"], "nothing is left beside"
    assert home_id(home) != home_id(tmp_path / "other")
    shutil.copytree(home / "runs", tmp_path / "restored" / "runs")
    assert home_id(tmp_path / "restored") == home_id(home), "a backup brings it along"
