"""Processes that train one model: process groups, messages between ranks, DDP and FSDP2."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from lcl_core.common.device import use_device
from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.files import write_atomically
from lcl_core.common.rendezvous import listen_on_reserved, meeting_seconds
from lcl_core.common.run_dir import ExitCode, JobCancelled, RendezvousFailed
from lcl_core.model import LCLModel
from lcl_core.specs.pretrain import COLLECTIVE_TIMEOUT
from lcl_core.train.deferred_init import lacks_values

SECONDS_BETWEEN_LINES = 10.0  # a supervisor treats a silent job as hung
_RECORDED_COLLECTIVES = 2000  # the last ones of a rank
_MESSAGE_ELEMENTS = 1 << 28  # of one message: below what fits into 32 bits
_TRACES = "flight_recorder"  # folder of artifacts
_timeout = timedelta(seconds=COLLECTIVE_TIMEOUT)  # of this process's groups

Step = Callable[[], None]

log = logging.getLogger(__name__)


class RankGroup:
    """Rank of this process, and a gloo group of its own for JSON messages between ranks.

    Each user makes its own group, on all ranks at once: a checkpoint is written in a background thread, and messages of
    two threads in one group would mix. A single process needs no group.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if several else 0
        self.size = dist.get_world_size() if several else 1
        self._group = dist.new_group(backend="gloo", timeout=_timeout) if several else None

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

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Give all ranks the values that ``source`` has in a contiguous tensor of the CPU."""
        if self._group is None:
            return
        for part in tensor.view(-1).split(_MESSAGE_ELEMENTS):
            dist.broadcast(part, source, group=self._group)

    def run_on_all_ranks(self, action: Callable[[], Any]) -> list[Any]:
        """Run ``action`` on every rank and gather the returned JSON values.

        Raises: this rank's own error; or that of the first rank that failed: a UserError with all of its fields,
            JobCancelled, or a RuntimeError with the message of another error.
        """
        failure: Exception | None = None
        outcome: dict[str, Any] = {}
        try:
            outcome["value"] = action()
        except Exception as error:
            failure, outcome = error, {"error": _error_to_json(error)}
        outcomes = self.all_gather_object(outcome)
        if failure is not None:
            raise failure
        for rank, other in enumerate(outcomes):
            if "error" in other:
                raise _error_of_rank(rank, **other["error"])
        return [other["value"] for other in outcomes]

    def run_long_on_all_ranks(self, action: Callable[[Step], Any], report: Step = no_progress) -> list[Any]:
        """:meth:`run_on_all_ranks` for an ``action`` of any duration: no collective waits until it has ended.

        It runs in a thread, while the ranks exchange every few seconds whether their actions have ended.

        Args:
            action: calls its argument after every small part of the work; what that raises ends it.
            report: called between exchanges, if any rank's action has advanced since.
        Raises: as :meth:`run_on_all_ranks`; what ``report`` raises; RuntimeError where a rank is lost.
        """
        steps, seen, lost = 0, 0, threading.Event()

        def step() -> None:
            nonlocal steps
            if lost.is_set():
                raise RuntimeError("another rank has ended, so this one stops its work")
            steps += 1

        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(action, step)
            try:
                while True:
                    wait([work], timeout=min(SECONDS_BETWEEN_LINES, _timeout.total_seconds() / 4))
                    states = self.all_gather_ints([int(work.done()), steps])
                    if all(done for done, _ in states):
                        return self.run_on_all_ranks(work.result)
                    if (total := sum(count for _, count in states)) > seen:
                        seen = total
                        report()
            except BaseException:
                lost.set()
                raise

    def close(self) -> None:
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None


def _error_to_json(error: Exception) -> dict[str, Any]:
    """Arguments of :func:`_error_of_rank`. The kind of error decides how a process exits, so it is sent too."""
    if isinstance(error, UserError):
        fields = {"code": error.code, "field": error.field, "file": error.file, "line": error.line}
        kind = StoreError if isinstance(error, StoreError) else UserError
        return {"kind": kind.__name__, "message": error.message, **fields}
    if isinstance(error, JobCancelled):
        return {"kind": JobCancelled.__name__, "message": str(error)}
    return {"kind": "", "message": f"{type(error).__name__}: {error}"}


def _error_of_rank(rank: int, kind: str, message: str, **fields: Any) -> Exception:
    """The error of another rank, to be raised on this one."""
    if kind == JobCancelled.__name__:
        return JobCancelled(message)
    user_errors = {error.__name__: error for error in (UserError, StoreError)}
    return user_errors[kind](message, **fields) if kind else RuntimeError(f"rank {rank} failed: {message}")


@contextmanager
def init_process_group(
    device: torch.device, timeout_seconds: float = COLLECTIVE_TIMEOUT, artifacts: Path | None = None
) -> Iterator[None]:
    """Join the processes that torchrun or ``train.launch`` started; nothing to do for a single process.

    CPU tensors are sent over gloo on GPU machines too, so that counts on the host do not wait for a device.

    Args:
        timeout_seconds: a collective that waits longer for another rank fails, over NCCL by ending the process.
        artifacts: if given, ``flight_recorder/`` in it gets this rank's last collectives.
    """
    global _timeout
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    _timeout = timedelta(seconds=timeout_seconds)
    if artifacts is not None:
        _enable_flight_recorder(artifacts / _TRACES)
    backend, bound_to = "gloo", None
    if device.type != "cpu":  # with its device, NCCL connects at once and never guesses one
        backend, bound_to = f"cpu:gloo,{device.type}:nccl", device
    seconds = meeting_seconds()
    if seconds is None:
        dist.init_process_group(backend, timeout=_timeout, device_id=bound_to)
    else:
        _meet(backend, seconds, bound_to)
    try:
        yield
    except RuntimeError:  # gloo has no other type for a time-out or a closed connection
        if artifacts is not None:
            _dump_collectives(artifacts / _TRACES / f"rank_{dist.get_rank()}.json")
        raise
    finally:
        dist.destroy_process_group()


def _meet(backend: str, seconds: float, device: torch.device | None) -> None:
    """Connect all ranks through a store on the port that was reserved for rank 0.

    At the deadline the process exits: the call that connects the ranks cannot be interrupted. Raises: RendezvousFailed.
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
        store.set_timeout(_timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_timeout, device_id=device)
        dist.all_reduce(torch.zeros(1))  # connects the ranks to each other
    except (RuntimeError, OSError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)  # the lines below are a C++ stack trace
        raise RendezvousFailed(f"{failure}: {cause}") from error
    finally:
        deadline.cancel()


def _exit_unmet(failure: str) -> None:
    print(f"error: {failure}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(ExitCode.RENDEZVOUS_FAILED)


def _enable_flight_recorder(folder: Path) -> None:
    """Let NCCL's watchdog write each rank's last collectives as ``folder/nccl_rank_N`` before it ends the process.

    PyTorch reads these variables when the first group is created. Variables that are already set are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(_RECORDED_COLLECTIVES))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(folder / "nccl_rank_"))


def _dump_collectives(path: Path) -> None:
    """Write this rank's last collectives over gloo as JSON. The rank whose list ends first kept the others waiting."""
    dump = getattr(torch._C._distributed_c10d, "_dump_fr_trace_json", None)
    if dump is None:  # of older versions
        return
    write_atomically(path, dump(True, False).decode())
    log.error("the last collectives of this rank are in %s", path)


def parallelize_model(
    module: nn.Module, model: LCLModel, strategy: str, shard_processes: int | None = None
) -> nn.Module:
    """Make the processes train one ``module``, which contains ``model``. A single process gets ``module`` unchanged.

    Args:
        model: on the meta device it gets memory for this process's part, without values; only ``fsdp2`` supports that.
        strategy: ``ddp``, every process has all weights; ``fsdp2``, each has a part of every block.
        shard_processes: of ``fsdp2``: consecutive ranks that share one copy of the weights; none: all.
    Raises: KeyError for another strategy.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return module
    return STRATEGIES[strategy](module, model, shard_processes)


def _replicate(module: nn.Module, model: LCLModel, shard_processes: int | None) -> nn.Module:
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def _shard(module: nn.Module, model: LCLModel, shard_processes: int | None) -> nn.Module:
    device = use_device() if lacks_values(model) else model.device
    mesh = device_mesh(device.type, dist.get_world_size(), shard_processes)
    for block in (*model.visual.blocks, *model.text.transformer.blocks):
        fully_shard(block, mesh=mesh)
    # FSDP2 shards no scalars: they stay whole on every rank, and the step averages their gradients
    fully_shard(module, mesh=mesh, ignored_params=set(_scalars(module)))
    # what ``to_empty`` does, except for tensors that have values
    module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))
    return module


def device_mesh(device_type: str, ranks: int, shard_processes: int | None) -> DeviceMesh:
    """One dimension, over which tensors are sharded; or two, over the first of which shards are replicated.

    Groups of two dimensions are created here, because those that a mesh creates itself have PyTorch's time limits.

    Raises: UserError naming the field, if ranks that were started by hand do not match the spec.
    """
    if shard_processes is None or shard_processes == ranks:
        return init_device_mesh(device_type, (ranks,))
    if ranks % shard_processes:
        field, message = "engine.shard_processes", f"{ranks} processes cannot form groups of {shard_processes}"
        raise UserError(f"{field}: {message}; start a multiple of that", code="bad_spec", field=field)
    mesh = torch.arange(ranks).view(-1, shard_processes)
    groups = [_own_group(replicas.tolist()) for replicas in (mesh.T, mesh)]
    return DeviceMesh.from_group(groups, device_type, mesh=mesh, mesh_dim_names=("replicate", "shard"))


def _own_group(ranks_of_groups: list[list[int]]) -> dist.ProcessGroup:
    """Make all of these groups, which together have every rank. Returns: this rank's."""
    own, _ = dist.new_subgroups_by_enumeration(ranks_of_groups, timeout=_timeout)
    return own


STRATEGIES: dict[str, Callable[[nn.Module, LCLModel, int | None], nn.Module]] = {"ddp": _replicate, "fsdp2": _shard}


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
