"""The folder that holds a run's checkpoints: names, what is kept, what is swept away."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from lcl_core.train.checkpoint.files import sync_folder


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def writer_name() -> str:
    """Names this process in the folders that it has not finished."""
    return f"{socket.gethostname()}-{os.getpid()}"


def beside(path: Path, writer: str) -> Path:
    """Where ``writer`` prepares ``path``; hidden until it is whole."""
    return path.with_name(f".{path.name}.{writer}.tmp")


def sweep(folder: Path) -> None:
    """Remove what dead processes left unfinished.

    A run directory has one owner at a time, so only another live process of this machine is spared, which
    happens to a folder outside a run directory. A folder of this very process id is a dead namesake's: the
    processes of containers share few numbers.
    """
    for path in folder.glob(".step_*.tmp"):
        writer = path.name.removesuffix(".tmp").removeprefix(".").partition(".")[2]
        host, _, number = writer.rpartition("-")
        elsewhere = host != socket.gethostname() or not number.isdecimal()
        if elsewhere or int(number) == os.getpid() or not _alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def put_in_place(finished: Path, target: Path, writer: str) -> None:
    """Give a finished folder its name, on the disk too; an older one of that name goes."""
    if target.exists():
        discard(target, writer)
    finished.rename(target)
    sync_folder(target.parent)


def prune(folder: Path, step: int, keep: int, milestone_every: int | None, writer: str) -> None:
    """After ``step`` has been written: keep the newest ``keep`` and the milestones, remove the rest.

    Checkpoints of later steps are removed, whatever their number: the run went back to before them, since they
    were damaged, and they would take the place of good ones.
    """
    past = [path for path in newest_first(folder) if step_of(path) <= step]
    kept = set(past[:keep])
    if milestone_every is not None:
        kept |= {path for path in past if step_of(path) % milestone_every == 0}
    for path in newest_first(folder):
        if path not in kept:
            discard(path, writer)


def discard(path: Path, writer: str) -> None:
    """Remove a checkpoint; one half removed is never taken for a damaged one."""
    hidden = beside(path.with_name(f"{path.name}_old"), writer)
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
