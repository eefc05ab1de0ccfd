"""``python -m tests.lcl_core.db.concurrent_writer URL``: processes that add to collection ``col_1`` until killed.

For a line of words on standard input one process is started for each word. It prints ``pid PID`` and then, for calls of
three items, ``kept NAME NAME NAME`` after the commit of each call. When all have been killed: ``over``.
"""

from __future__ import annotations

import itertools
import os
import sys

import numpy as np

from lcl_core.collections.file_format import stable_hash64
from lcl_core.collections.records import ChangeRecord
from lcl_core.db import collections
from lcl_core.db.session import Database

ENCODER, DIM, AT_ONCE = "e" * 64, 16, 3


def unit(words: str) -> np.ndarray:
    """f32 [DIM] of length 1, the same for the same words."""
    row = np.random.default_rng(stable_hash64(words)).normal(size=DIM).astype("<f4")
    return row / np.linalg.norm(row)


def identity(name: str) -> str:
    return f"img_{stable_hash64(name):016x}"


def gallery(name: str) -> bytes:
    """Some pages of a database file."""
    return name.encode() * 3000


def picture(name: str) -> collections.ItemAddition:
    record = {"id": identity(name), "image": name, "captions": [f"of {name}"], "labels": {"name": name}}
    record |= {"split": "", "source": "", "media_type": "image/png"}
    change = ChangeRecord(0, identity(name), record, unit(name).tobytes(), unit(f"of {name}").tobytes())
    return collections.ItemAddition(change, gallery(name))


def add_for_ever(url: str, word: str) -> None:
    say(f"pid {os.getpid()}")
    database = Database(url)
    opened = collections.CollectionRef("col_1", "collections/col_1", lambda item: False)
    for call in itertools.count():
        names = [f"{word}-{call}-{number}" for number in range(AT_ONCE)]
        with database.session() as session:
            collections.add_items(session, opened, [picture(name) for name in names], ENCODER)
        say(f"kept {' '.join(names)}")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # at one go: two share the pipe


def main(url: str) -> None:
    for line in sys.stdin:
        pids = []
        for word in line.split():
            pids.append(os.fork())  # what was imported need not be imported again
            if pids[-1] == 0:
                add_for_ever(url, word)
        for pid in pids:
            os.waitpid(pid, 0)
        say("over")


if __name__ == "__main__":
    main(sys.argv[1])
