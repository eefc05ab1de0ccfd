"""Processes that train one model: process groups, messages between ranks, DDP and FSDP2."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.processes import listen_on_reserved, meeting_seconds, raise_open_files
from lcl_core.common.run_dir import ExitCode, JobCancelled, RendezvousFailed
from lcl_core.model import LCLModel

SECONDS_BETWEEN_LINES = 10.0  # a supervisor treats a silent job as hung
# A collective that waits longer for another rank fails, over NCCL by ending the process: the first step may compile.
TIMEOUT = timedelta(minutes=30)
# for messages between ranks, of which one may read a large corpus first; a silent run is ended by its supervisor
MESSAGE_TIMEOUT = timedelta(days=2)

OPEN_FILES = 1 << 16  # each gloo group connects a rank to all others; shards and libraries have theirs besides
# after which a connection whose other end does not answer is broken off; gloo would wait as long as its timeout
SILENCE_SECONDS = 120

# errors that have a meaning for the caller, which another rank's must have too; the more special ones first
_KINDS: dict[str, type[Exception]] = {"store": StoreError, "user": UserError, "cancelled": JobCancelled}


class RankGroup:
    """Rank of this process, and a gloo group of its own for JSON messages between ranks.

    All ranks make it at once, and only once: it connects each rank to all others. A single process needs no group.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if several else 0
        self.size = dist.get_world_size() if several else 1
        self._group = dist.new_group(backend="gloo", timeout=MESSAGE_TIMEOUT) if several else None
        if several:
            break_off_silent_connections()

    def all_gather_object(self, value: Any) -> list[Any]:
        """The JSON ``value`` of every rank, by rank; also a barrier. JSON instead of pickle."""
        if self._group is None:
            return [value]
        sent = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(sent)]), group=self._group)
        longest = max(int(length) for length in lengths)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(texts, torch.nn.functional.pad(sent, (0, longest - len(sent))), group=self._group)
        return [json.loads(text[: int(length)].numpy().tobytes()) for text, length in zip(texts, lengths, strict=True)]

    def all_gather_ints(self, values: Sequence[int]) -> list[list[int]]:
        """Equally many numbers of every rank, by rank, in one message."""
        if self._group is None:
            return [list(values)]
        table = [torch.zeros(len(values), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(table, torch.tensor(values, dtype=torch.int64), group=self._group)
        return [row.tolist() for row in table]

    def gather_rows(self, parts: list[Tensor]) -> list[Tensor]:
        """The rows [n, E] of every rank, by rank, on the first one; n may differ. Nothing on the others."""
        if self._group is None or not parts:
            return parts
        own = torch.cat(parts)
        counts = [count for (count,) in self.all_gather_ints([len(own)])]
        sent = torch.nn.functional.pad(own.cpu(), (0, 0, 0, max(counts) - len(own)))
        found = [torch.empty_like(sent) for _ in counts] if self.rank == 0 else None
        dist.gather(sent, found, dst=0, group=self._group)
        return [rows[:count].to(own.device) for rows, count in zip(found or [], counts, strict=False)]

    def run_on_all_ranks(self, action: Callable[[], Any]) -> list[Any]:
        """Run ``action`` on every rank and gather the returned JSON values.

        Raises: this rank's own error; or that of the first rank that failed: a UserError with all of its fields,
            JobCancelled, or a RuntimeError with the message of another error.
        """
        failure: Exception | None = None
        outcome: dict[str, Any] = {"kind": "", "value": None}
        try:
            outcome["value"] = action()
        except Exception as error:
            failure = error
            kind = next((kind for kind in _KINDS if isinstance(error, _KINDS[kind])), "other")
            outcome = {"kind": kind, "message": f"{type(error).__name__}: {error}", "fields": {}}
            if isinstance(error, UserError):
                outcome["message"] = error.message
                outcome["fields"] = {name: getattr(error, name) for name in ("code", "field", "file", "line")}
        outcomes = self.all_gather_object(outcome)
        if failure is not None:
            raise failure
        for rank, other in enumerate(outcomes):
            if other["kind"] == "other":
                raise RuntimeError(f"rank {rank} failed: {other['message']}")
            if other["kind"]:
                raise _KINDS[other["kind"]](other["message"], **other["fields"])
        return [other["value"] for other in outcomes]


@contextmanager
def init_process_group(device: torch.device) -> Iterator[RankGroup]:
    """Join the processes that torchrun or ``train.launch`` started; nothing to do for a single process.

    CPU tensors are sent over gloo on GPU machines too, so that counts on the host do not wait for a device. After an
    error the group is left to the end of the process: over NCCL its destruction waits for collectives of other ranks,
    which this rank will never join, and the error would not be told before their timeout.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield RankGroup()
        return
    raise_open_files(OPEN_FILES)
    backend, bound_to = "gloo", None
    if device.type != "cpu":  # with its device, NCCL connects at once and never guesses one
        backend, bound_to = f"cpu:gloo,{device.type}:nccl", device
    seconds = meeting_seconds()
    if seconds is None:
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=bound_to)
    else:
        _meet(backend, seconds, bound_to)
    yield RankGroup()
    dist.destroy_process_group()


def _meet(backend: str, seconds: float, device: torch.device | None) -> None:
    """Connect all ranks through a store on the port that was reserved for rank 0.

    At the deadline the process exits: the call that connects the ranks cannot be interrupted.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    failure = f"the {size} processes of the run did not connect to {host}:{port} within {seconds:g} s"
    deadline = threading.Timer(seconds, _exit_unmet, (failure,))
    deadline.daemon = True
    deadline.start()
    try:
        listener = listen_on_reserved(port, host if host.startswith("127.") else "").detach() if rank == 0 else None
        patience = timedelta(seconds=seconds)
        store = dist.TCPStore(host, port, size, rank == 0, timeout=patience, master_listen_fd=listener)
        store.set_timeout(TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT, device_id=device)
        dist.all_reduce(torch.zeros(1))  # connects the ranks to each other
    except (RuntimeError, OSError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)  # the lines below are a C++ stack trace
        raise RendezvousFailed(f"{failure}: {cause}") from error
    finally:
        deadline.cancel()


def break_off_silent_connections() -> None:
    """Let the kernel end every TCP connection of this process whose other end has not answered for SILENCE_SECONDS.

    gloo sets neither keep-alive nor a limit on unacknowledged data, so that a cut network would end nothing for the
    half hour of TIMEOUT. Only Linux has these options.
    """
    if sys.platform != "linux":
        return
    probes = 4
    for entry in Path("/proc/self/fd").iterdir():
        if not entry.is_socket():
            continue
        with suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS // probes)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SECONDS // probes)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)


def _exit_unmet(failure: str) -> None:
    print(f"error: {failure}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(ExitCode.RENDEZVOUS_FAILED)


def parallelize_model(module: nn.Module, model: LCLModel, strategy: str) -> nn.Module:
    """Make the processes train one ``module``, which contains ``model``. A single process gets ``module`` unchanged.

    Args:
        strategy: ``ddp``, every process has all weights; ``fsdp2``, each has a part of every block.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return module
    if strategy == "ddp":
        return DistributedDataParallel(module, gradient_as_bucket_view=True)
    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    for block in (*model.visual.blocks, *model.text.transformer.blocks):
        fully_shard(block, mesh=mesh)
    # FSDP2 shards no scalars: they stay whole on every rank, and the step averages their gradients
    fully_shard(module, mesh=mesh, ignored_params=set(_scalars(module)))
    return module


def gather_whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, copied to the CPU of the first rank; empty on others. All ranks gather sharded tensors."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    tensors = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if first:
            tensors[name] = whole.detach().to("cpu", copy=True)
    return tensors


@contextmanager
def no_sync(module: nn.Module, skip: bool) -> Iterator[None]:
    """Accumulate gradients on each rank without synchronising them, if ``skip``."""
    if not skip:
        yield
    elif isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)
    else:
        yield


def average_unsharded_gradients(module: nn.Module) -> None:
    """Average over the ranks the gradients of the parameters that FSDP2 does not shard."""
    if not isinstance(module, FSDPModule):
        return
    for parameter in _scalars(module):
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    """The temperature, and the bias of a sigmoid loss."""
    return [parameter for parameter in module.parameters() if parameter.ndim == 0]
