"""One rank of a mesh of two dimensions.

    mesh_timeouts.py FOLDER PORT RANK RANKS SHARDS TIMEOUT

Writes FOLDER/RANK.json, of each dimension: the ranks of this one's group, the seconds after which a collective of it
fails, and the sum of the ranks' numbers over it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from lcl_core.train.distributed import device_mesh, init_process_group


def main(folder: Path, port: str, rank: int, ranks: int, shards: int, timeout: float) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ.update(meeting)
    cpu = torch.device("cpu")
    with init_process_group(cpu, timeout):
        mesh = device_mesh("cpu", ranks, shards)
        dimensions = {}
        for name in mesh.mesh_dim_names or ():
            group, total = mesh.get_group(name), torch.tensor(rank)
            dist.all_reduce(total, group=group)
            seconds = group._get_backend(cpu).options._timeout.total_seconds()
            dimensions[name] = [dist.get_process_group_ranks(group), seconds, int(total)]
    (folder / f"{rank}.json").write_text(json.dumps(dimensions))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]), float(sys.argv[6]))
