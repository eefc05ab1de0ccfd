"""A rank of two that joins, and then waits for the other in a group of its own; rank 1 never comes.

    absent_rank.py FOLDER RANK TIMEOUT

Rank 1 stays until its standard input is closed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lcl_core.train.distributed import RankGroup, init_process_group


def main(folder: Path, rank: int, timeout: float) -> None:
    with init_process_group(torch.device("cpu"), timeout, folder):
        group = RankGroup()
        if rank == 1:
            sys.stdin.read()
            os._exit(0)
        group.all_gather_ints([1, 2, 3])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
