"""One rank that prepares the run's tokenizer, and counts the items that it reads for that.

    counted_tokenizer.py RUN_DIR RANK RANKS ATTEMPT

RUN_DIR/reads.ATTEMPT.RANK.json gets the number of reads and the tokenizer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lcl_core.common.run_dir import RunDir
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import open_corpora, prepare_tokenizer


def main(path: Path, rank: int, ranks: int, attempt: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}/meeting.{attempt}", rank=rank, world_size=ranks)
    reads = 0
    description = ShardedCorpus.description

    def counted(self: ShardedCorpus, *given: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        return description(self, *given, **named)

    ShardedCorpus.description = counted  # type: ignore[method-assign]
    run_dir = RunDir(path)
    run = run_dir.read_run()
    spec = PretrainSpec.model_validate(run["spec"])
    tokenizer = prepare_tokenizer(spec, open_corpora(spec, run["datasets"]), run_dir, RankGroup())
    (path / f"reads.{attempt}.{rank}.json").write_text(json.dumps([reads, tokenizer.to_json()]))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
