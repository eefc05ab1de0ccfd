"""A rank opens and reads what it needs of a checkpoint: measured with many fake ranks, in one process."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from lcl_core.common.errors import StoreError
from lcl_core.common.files import sha256_file
from lcl_core.train.checkpoint.manager import checkpoint_path
from lcl_core.train.checkpoint.manifest import CheckpointManifest
from lcl_core.train.checkpoint.reader import CheckpointFiles
from lcl_core.train.checkpoint.writer import rank_file
from tests.lcl_core.train.fake_ranks import GROUPS, Groups, fake_group, load, local_bytes, shards, write_checkpoint
from tests.lcl_core.train.rank_processes import run_ranks


def require_exact(rank: int, size: int, got: Groups) -> None:
    with fake_group(rank, size):
        for group, tensors in shards(rank, size, filled=True).items():
            for name, tensor in tensors.items():
                mine = got[group][name]
                pair = [each.to_local() if isinstance(each, DTensor) else each for each in (mine, tensor)]
                assert torch.equal(*pair), (group, name)


def test_each_of_64_ranks_opens_its_own_files_and_two_more(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 64)
    checkpoint = checkpoint_path(tmp_path, 5)
    for rank, (opened, into, loaded) in enumerate(load(tmp_path, 64)):
        own = {checkpoint / group / f"rank_{rank:05d}.safetensors" for group in GROUPS}
        own |= {checkpoint / rank_file("rng", rank)}
        assert len(opened) == len(set(opened)) <= len(own) + 2
        assert set(opened) == own | {checkpoint / "manifest.json", checkpoint / "state.json"}
        assert sum(path.stat().st_size for path in opened) <= 1.05 * local_bytes(into) + manifest_bytes(checkpoint)
        assert sum(path.stat().st_size for path in own) <= 1.05 * local_bytes(into)
        assert loaded.rank_tensors["rng"]["cpu"].tolist() == [rank]
        require_exact(rank, 64, into)


def manifest_bytes(checkpoint: Path) -> int:
    return sum((checkpoint / name).stat().st_size for name in ("manifest.json", "state.json"))


@pytest.mark.parametrize(("written", "size"), [(64, 1), (64, 7), (8, 12)])
def test_another_number_of_ranks_opens_each_file_once(tmp_path: Path, written: int, size: int) -> None:
    """A rank opens what its shard overlaps, and the files that it verifies; these are nearly the same."""
    write_checkpoint(tmp_path, written)
    verified = set()
    for rank, (opened, into, _) in enumerate(load(tmp_path, size)):
        overlapped, of_one_rank = written // size + 2, -(-written // size)
        assert len(set(opened)) <= len(GROUPS) * (overlapped + 1) + of_one_rank + 2
        assert len(opened) <= len(set(opened)) * (1 if len(set(opened)) <= 128 else 2)
        verified |= set(opened)
        require_exact(rank, size, into)
    assert verified == {path for path in checkpoint_path(tmp_path, 5).rglob("*.*") if path.is_file()}


def test_a_damaged_file_is_found_by_the_rank_that_holds_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 4)
    victim = checkpoint_path(tmp_path, 5) / "ema" / "rank_00002.safetensors"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for _, into, loaded in load(tmp_path, 4):
        assert loaded is None
        with fake_group(0, 4):
            assert not any(each.to_local().any() for each in into["model"].values() if isinstance(each, DTensor))


def test_all_ranks_end_where_the_storage_of_one_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, 4)
    opened = CheckpointFiles.open

    def fail(files: CheckpointFiles, name: str) -> BufferedReader:
        if name == "ema/rank_00002.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return opened(files, name)

    monkeypatch.setattr(CheckpointFiles, "open", fail)
    with pytest.raises(StoreError, match="Input/output error") as caught:  # of the first rank, which read its own files
        load(tmp_path, 4)
    assert caught.value.code == "checkpoint_unreadable"


@pytest.mark.parametrize("change", ["longer", "before", "type", "torn"])
def test_a_header_that_lies_is_damage(tmp_path: Path, change: str) -> None:
    """With a checksum that is right: such a file comes from elsewhere."""
    write_checkpoint(tmp_path, 1)
    path = checkpoint_path(tmp_path, 5)
    victim = next(path.glob("model*/*")) if (path / "model").is_dir() else path / "model.safetensors"
    content = victim.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if change == "longer":
        header["weight"]["data_offsets"][1] += 1 << 30
    elif change == "before":
        header["weight"]["data_offsets"] = [at - (1 << 20) for at in header["weight"]["data_offsets"]]
    elif change == "type":
        header["weight"]["dtype"] = "F64"
    text = json.dumps(header).encode()
    start = (1 << 40) if change == "torn" else len(text)
    victim.write_bytes(start.to_bytes(8, "little") + text + content[8 + length :])
    manifest = CheckpointManifest(**json.loads((path / "manifest.json").read_text()))
    manifest.files[victim.relative_to(path).as_posix()] = sha256_file(victim)
    (path / "manifest.json").write_text(json.dumps(asdict(manifest)))
    ((_, _, loaded),) = load(tmp_path, 1)
    assert loaded is None


@pytest.mark.parametrize(
    "layouts", [[(2, 2), (3, 3), (1, 1)], [(4, 2), (1, 1), (4, 2), (4, 4)]], ids=["flat", "groups"]
)
def test_other_ranks_have_the_bits_that_were_saved(tmp_path: Path, layouts: list[tuple[int, int]]) -> None:
    """Ranks, and how many of them share one copy of the tensors."""
    for number, (ranks, sharing) in enumerate(layouts):
        options = [str(ranks), str(sharing), str(number)]
        run_ranks([["tests.lcl_core.train.resized_checkpoints", str(tmp_path), str(r), *options] for r in range(ranks)])
