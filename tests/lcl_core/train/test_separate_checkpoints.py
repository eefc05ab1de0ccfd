"""Ranks with folders of their own share a checkpoint: each folder has its ranks' files, and any ranks resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lcl_core.train.rank_processes import run_ranks

MODULE = "tests.lcl_core.train.separate_checkpoints"


def run(what: str, folder: Path, homes: str, *more: str) -> None:
    run_ranks([[MODULE, what, str(folder), str(rank), homes, *more] for rank in range(len(homes.split(",")))])


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()}


def test_each_folder_has_the_files_of_its_ranks_and_any_ranks_resume(tmp_path: Path) -> None:
    run("save", tmp_path, "a,b")
    newest = "checkpoints/step_00000004"
    groups = ("model", "optimizer", "ema", "more")
    first, second = names(tmp_path / "a" / newest), names(tmp_path / "b" / newest)
    assert first == {*(f"{group}/rank_00000.safetensors" for group in groups), "rng.rank_00000.safetensors"} | {
        "state.json",
        "manifest.json",
    }
    assert second == {*(f"{group}/rank_00001.safetensors" for group in groups), "rng.rank_00001.safetensors"} | {
        "manifest.json"
    }
    for home in ("a", "b"):
        waiting = sorted(path.name for path in (tmp_path / home / "outgoing").iterdir())
        assert waiting == ["step_00000001", "step_00000002", "step_00000004"], "two, and the last one"
        assert names(tmp_path / home / "outgoing" / "step_00000004") == names(tmp_path / home / newest)
    for homes in ("a,b", "b,a", "a,b,b", "a,b,empty"):
        run("load", tmp_path, homes)


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_files_that_some_folder_has_need_not_be_where_their_reader_is(tmp_path: Path, kind: str) -> None:
    run("save", tmp_path, "a,b", kind)
    newest = tmp_path / "a" / "checkpoints" / "step_00000004"
    shutil.copytree(tmp_path / "b" / "checkpoints" / "step_00000004", newest, dirs_exist_ok=True)
    for homes in ("a,new", "a,new,new"):
        run("load", tmp_path, homes, kind)
    assert not list((tmp_path / "new").rglob("*.safetensors"))
