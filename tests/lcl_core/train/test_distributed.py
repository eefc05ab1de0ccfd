"""Two processes learn what one learns from the joint batch, however the documents are dealt out, by every objective."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.run_dir import JobCancelled
from lcl_core.train.distributed import RankGroup
from tests.lcl_core.batch_partitions import VARIANTS
from tests.lcl_core.train.rank_processes import run_ranks

MODULE = "tests.lcl_core.train.multi_rank_steps"
# rows of each micro-batch of each rank: uneven images; a rank whose only document has no contrastive pair
DEALS = {
    "uneven": [[[0, 1, 2]], [[3]]],
    "accumulated": [[[1], [0]], [[3], [2]]],
}
Result = tuple[dict[str, Tensor], dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def results():
    """By name: processes are slow to start, and each run is of all objectives."""
    return {}


@pytest.fixture
def run(results, tmp_path, small_config, documents, pairs, pixels):
    """Tensors and numbers that the ranks, which share the case in this way, end with. ``copies``: of each document."""

    def run(name, strategy, hands, *options, copies=1):
        if name not in results:
            (tmp_path / "config.json").write_text(small_config.to_json_string(use_diff=False))
            for kind, rows in (("documents", documents * copies), ("pairs", pairs * copies)):
                save_file(
                    {f"{number}": row.clone() for number, row in enumerate(rows)}, tmp_path / f"{kind}.safetensors"
                )
            save_file({"pixels": pixels.repeat(copies, 1, 1, 1)}, tmp_path / "pixels.safetensors")
            common = [str(len(hands)), strategy, *map(json.dumps, (hands, *options))]
            run_ranks([[MODULE, str(tmp_path), str(r), *common] for r in range(len(hands))])
            facts = json.loads((tmp_path / "result.json").read_text())
            results[name] = load_file(tmp_path / "result.safetensors"), facts
        return results[name]

    return run


@pytest.mark.parametrize(
    ("strategy", "deal"),
    [
        ("ddp", "uneven"),
        pytest.param("fsdp2", "accumulated", marks=pytest.mark.extended),
        pytest.param("ddp", "accumulated", marks=pytest.mark.extended),
        pytest.param("fsdp2", "uneven", marks=pytest.mark.extended),
    ],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_are_one_process_with_the_joint_batch(run, strategy, deal, name):
    alone, alone_facts = run("alone", "ddp", [[[0, 1, 2, 3]]])
    shared, shared_facts = run(f"{strategy} {deal}", strategy, DEALS[deal])
    own = {key: tensor for key, tensor in alone.items() if key.startswith(f"{name}.")}
    assert own
    assert {key for key in shared if key.startswith(f"{name}.")} == own.keys()
    for key, tensor in own.items():
        scale = max(float(tensor.abs().max()), 1e-3)
        torch.testing.assert_close(shared[key], tensor, atol=2e-5 * scale + 2e-6, rtol=0, msg=key)
    for mine, theirs in zip(shared_facts[name], alone_facts[name], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("frozen", [["vision", "pooler"], ["text", "head"]], ids="-".join)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_frozen_parts_are_frozen_on_all_ranks(run, strategy, frozen):
    options = ["lcl", "clip", "emu"], {}, frozen
    alone, _ = run(f"alone {frozen}", "ddp", [[[0, 1, 2, 3]]], *options)
    shared, _ = run(f"{strategy} {frozen}", strategy, DEALS["accumulated"], *options)
    whole, _ = run("alone", "ddp", [[[0, 1, 2, 3]]])
    modules = {"vision": "visual", "pooler": "pool_project", "text": "text", "head": "lm_head"}
    kinds = ("grad", "later_grad")
    kept = tuple(f"{name}.{kind}.model.{modules[part]}." for name in options[0] for kind in kinds for part in frozen)
    own = tuple(f"{name}." for name in options[0])
    assert {key for key in whole if key.startswith(own) and not key.startswith(kept)} == alone.keys() == shared.keys()
    for key, tensor in alone.items():
        scale = max(float(tensor.abs().max()), 1e-3)
        torch.testing.assert_close(shared[key], tensor, atol=2e-5 * scale + 2e-6, rtol=0, msg=key)


class ThreadRanks(RankGroup):
    """Two ranks that are threads of this process; what they send each other is JSON."""

    def __init__(self, rank, sent, meeting):
        super().__init__()
        self.rank, self._sent, self._meeting = rank, sent, meeting

    def all_gather_object(self, value):
        self._sent[self.rank] = json.dumps(value)
        self._meeting.wait(60)
        values = [json.loads(self._sent[rank]) for rank in sorted(self._sent)]
        self._meeting.wait(60)
        return values


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("no such number", code="bad_spec", field="monitor.choose"), UserError),
        (StoreError("does not answer", code="store_unreachable", file="docs.jsonl", line=3), StoreError),
        (JobCancelled(), JobCancelled),
        (ValueError("odd"), RuntimeError),
    ],
    ids=["spec", "store", "stop", "bug"],
)
def test_an_error_of_one_rank_is_the_same_on_the_others(error, kind):
    sent = {}
    meeting = Barrier(2)

    def fail():
        raise error

    def run(rank):
        try:
            ThreadRanks(rank, sent, meeting).run_on_all_ranks(fail if rank == 1 else lambda: None)
        except Exception as raised:
            return raised
        return None

    with ThreadPoolExecutor(2) as threads:
        healthy, failed = threads.map(run, range(2))
    assert failed is error
    assert type(healthy) is kind
    if isinstance(healthy, UserError) and isinstance(error, UserError):
        assert healthy.to_dict() == error.to_dict()
    if kind is RuntimeError:
        assert str(healthy) == "rank 1 failed: ValueError: odd"
