"""What is finished stays, what is half done does not, and two never work at one place."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.dataset_builder.build import open_build_dir
from lcl_core.dataset_builder.documents import DocumentRow, PairRow, PlacedImage

PAIR = PairRow("s/a.webp", ("a",), {}, "train", "s", "MIT")
SHOWN = (PlacedImage("s/a.webp", 0, 0),)
DOCUMENTS = [DocumentRow("u0", "s", "MIT", ("a",), SHOWN, "val"), DocumentRow("u1", "s", "MIT", ("a",), SHOWN)]


def test_steps_are_kept_between_attempts_and_put_together(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with open_build_dir(target) as place:
        place.begin("s")
        place.finish("s", "key", [PAIR], DOCUMENTS, {"n": 1})
        place.begin("half")
        (place.images / "half").mkdir(parents=True)
    assert not target.exists()
    with open_build_dir(target) as place:
        assert (place.done("s", "key"), place.done("s", "other"), place.done("half", "key")) == ({"n": 1}, None, None)
        assert place.assemble(["s"]) == {"s": {"n": 1}}
        place.publish(target)
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert names == {"pairs/s.jsonl", "interleaved/train.jsonl", "interleaved/val.jsonl"}
    assert '"u1"' in (target / "interleaved" / "train.jsonl").read_text()
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert not (target / "images" / "half").exists(), "of a source that is not among them"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, open_build_dir(tmp_path):
        pass
    assert caught.value.code == "target_exists"


def test_two_do_not_meet(tmp_path: Path) -> None:
    with (tmp_path / ".out.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError) as caught, open_build_dir(tmp_path / "out"):
            pass
    assert caught.value.code == "build_running"
