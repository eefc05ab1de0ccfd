"""Training metrics: data counts of all ranks, means over the steps since the last line, rates, time left, log files.

Scalars of a step stay on the device until a metric line or a checkpoint is due, so that no step waits for them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lcl_core.common.device import CpuClock, compute_dtype, peak_memory_gib, resident_gib
from lcl_core.common.errors import UserError
from lcl_core.data.sampling.packing import DocumentBatch
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.checkpoint.state import TrainingProgress
from lcl_core.train.distributed import RankGroup
from lcl_core.train.train_step import StepReport

NONFINITE_FILE = "not_a_number.json"  # the artifact with the documents of the newest step without a finite gradient


def peak_flops(dtype: torch.dtype, device: torch.device | None = None, seconds: float = 1.0) -> float:
    """Best rate of a square matrix product with the default settings, FLOP/s."""
    device = device or torch.device("cpu")
    size = 2048 if device.type == "cpu" else 8192
    generator = torch.Generator(device).manual_seed(0)  # of its own: that of the run belongs to its checkpoint
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, _time_matmul(a, b))
    return 2.0 * size**3 / best


def _time_matmul(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ b
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start


@dataclass
class DataCounts:
    """What this rank has read since the ranks last added up their counts."""

    documents: int = 0
    images: int = 0
    tokens: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    source_images: Counter[str] = field(default_factory=Counter)

    def add(self, batches: Sequence[DocumentBatch]) -> None:
        for batch in batches:
            self.documents += len(batch.samples)
            self.images += batch.images
            self.tokens += batch.tokens
            self.skipped.update(batch.skipped)
            self.left_out.update(batch.left_out)
            self.source_images.update({str(number): count.images for number, count in batch.by_source.items()})

    def move_to(self, progress: TrainingProgress, ranks: RankGroup) -> None:
        """Add the counts of all ranks, and begin anew. All ranks call it, and end with the same numbers."""
        for own in ranks.all_gather_object(vars(self)):
            progress.documents_seen += own["documents"]
            progress.images_seen += own["images"]
            progress.tokens_seen += own["tokens"]
            for name in ("skipped", "left_out", "source_images"):
                total = getattr(progress, name)
                for key, count in own[name].items():
                    total[key] = total.get(key, 0) + count
        vars(self).update(vars(DataCounts()))


def write_log(*lines: str) -> None:
    """Print lines for people, which the run's log.txt gets."""
    print("\n".join(lines), flush=True)  # noqa: T201


def setup_lines(spec: PretrainSpec, model: nn.Module, device: torch.device, ranks: int, step: int) -> list[str]:
    """What a run trains, on what, with which data, and from which step."""
    batch, rates, threads = spec.batch, spec.optimizer, torch.get_num_threads()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}  {threads} threads"
    sizes = f"{spec.model.image_size} px  context {spec.model.context_length}"
    sources = [f"{source.dataset} {source.view} × {source.weight:g}" for source in spec.data.sources]
    warning = []
    window = spec.data.window_blocks
    if spec.data.order == "blocks" and window % ranks:
        message = f"data.window_blocks {window} is no multiple of {ranks} processes, so that blocks are read by several"
        warning = [f"warning  {message} of them; {-(-window // ranks) * ranks} would be"]
    return [
        f"spec  {spec.objective.name}  {spec.steps} steps  {batch.images} images, {batch.tokens} tokens a batch  "
        f"lr {rates.lr:g}  seed {spec.seed}",
        f"model  {sum(each.numel() for each in model.parameters()):,} parameters  {sizes}",
        f"device  {where}  {str(compute_dtype(device, spec.precision)).removeprefix('torch.')}  "
        f"{ranks} process{'es' if ranks > 1 else ''}",
        f"data  {'  '.join(sources)}",
        *warning,
        f"start  {f'checkpoint of step {step}' if step else 'step 0'}",
    ]


def log_line(line: Mapping[str, Any]) -> str:
    """The line as people read it: step, losses, learning rate, speed."""
    own = [name for name in line if (name == "loss" or name.endswith("_loss")) and "." not in name]
    losses = [f"{name.removesuffix('_loss')} {line[name]:.4f}" for name in own]
    rest = {"lr": "lr {:.3g}", "images_per_s": "{:.1f} images/s", "held_out.loss": "held out {:.4f}"}
    others = [text.format(line[name]) for name, text in rest.items() if line.get(name) is not None]
    total = f"/{line['total_steps']}" if "total_steps" in line else ""
    return "  ".join([f"step {line['step']}{total}", *losses, *others])


@dataclass
class _PendingStep:
    """A step whose scalars are still on the device.

    Attributes:
        losses, metrics: names.
        values: [losses …, totals of metrics …, their counts …, gradient norm, finite].
    """

    step: int
    losses: list[str]
    metrics: list[str]
    values: Tensor
    documents: list[str]


@dataclass
class MetricsAggregator:
    """Collects the steps of all ranks.

    Attributes:
        total_steps: of the run.
        peak: FLOP/s of this rank's device, for the utilisation.
        device: of this rank, whose memory is reported; none: as ``pick_device``.
        _started, _counted: clock at the start of the next line's interval, and when the training time was last added
            to the progress; a checkpoint moves only the second one.
    """

    total_steps: int
    ranks: RankGroup
    peak: float
    device: torch.device | None = None
    _started: float = field(default_factory=time.monotonic)
    _counted: float = field(init=False)
    _cpu: CpuClock = field(default_factory=CpuClock)
    _pending: list[_PendingStep] = field(default_factory=list)
    _steps: int = 0
    _flops: float = 0.0
    _data_seconds: float = 0.0
    _images: int = 0
    _tokens: int = 0

    def __post_init__(self) -> None:
        self._counted = self._started

    def add(self, step: int, report: StepReport, batches: Sequence[DocumentBatch], flops: float, waited: float) -> None:
        """Record a step: its batches, its floating-point operations, the seconds it waited for data."""
        metrics = report.metrics.values()
        totals, counts = [metric.total for metric in metrics], [metric.count for metric in metrics]
        scalars = [*report.losses.values(), *totals, *counts, report.norm, report.finite]
        values = torch.stack([scalar.detach().to(report.finite) for scalar in scalars])
        documents = [sample.id for batch in batches for sample in batch.samples]
        names = list(report.losses), list(report.metrics)
        self._pending.append(_PendingStep(step, *names, values, documents))
        self._steps += 1
        self._flops += flops
        self._data_seconds += waited
        self._images += sum(batch.images for batch in batches)
        self._tokens += sum(batch.tokens for batch in batches)

    def flush(self, progress: TrainingProgress) -> None:
        """Read the pending scalars from the device into ``progress``, so that a checkpoint holds them.

        Raises: NonFiniteLoss for a loss or gradient that was not finite.
        """
        pending, self._pending = self._pending, []
        read = iter(torch.cat([step.values for step in pending]).tolist() if pending else [])  # all at once
        own = [[next(read) for _ in range(len(step.values))] for step in pending]
        by_rank = self.ranks.all_gather_object(own)
        for number, step in enumerate(pending):
            shares = [rank[number] for rank in by_rank]
            sums = [sum(column) for column in zip(*(row[:-2] for row in shares), strict=True)]
            norm, finite = shares[0][-2:]
            losses = dict(zip(step.losses, sums, strict=False))
            if not finite:
                raise NonFiniteLoss(step.step, losses, norm, step.documents)
            numbers = {f"{name}_loss": loss for name, loss in losses.items()}
            totals, counts = sums[len(losses) :][: len(step.metrics)], sums[len(losses) + len(step.metrics) :]
            for name, total, count in zip(step.metrics, totals, counts, strict=True):
                numbers[name] = total / max(count, 1)
            progress.pending.append({**numbers, "grad_norm": norm})

    def add_seconds(self, progress: TrainingProgress) -> None:
        """Add the training time since the last call to ``progress``, so that a checkpoint holds it."""
        now = time.monotonic()
        progress.seconds += now - self._counted
        self._counted = now

    def exclude(self, seconds: float) -> None:
        """Exclude from the rates and from the training time ``seconds`` that were not spent on training."""
        self._started += seconds
        self._counted += seconds

    def line(self, progress: TrainingProgress, **more: float) -> dict[str, Any]:
        """The metric line of ``progress.step``; starts the next interval."""
        self.flush(progress)
        seconds = time.monotonic() - self._started
        columns: dict[str, list[float]] = {}
        for row in progress.pending:
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in columns.items()}
        losses = [value for name, value in means.items() if name.endswith("_loss")]
        own = [self._images, self._tokens, peak_memory_gib(self.device)]
        all_images, all_tokens, memory = zip(*self.ranks.all_gather_object(own), strict=True)
        line = {
            "step": progress.step,
            "total_steps": self.total_steps,
            "loss": sum(losses),
            **means,
            "images_per_s": sum(all_images) / seconds,
            "tokens_per_s": sum(all_tokens) / seconds,
            "mfu": self._flops / seconds / self.peak,
            "data_wait": self._data_seconds / seconds,
            "memory_gib": max(memory),
            "rss_gib": resident_gib(),
            "cpu_cores": self._cpu.cores(),
            "images_seen": progress.images_seen,
            "seconds_left": (self.total_steps - progress.step) * seconds / max(self._steps, 1),
            "skipped": sum(progress.skipped.values()),
            **more,
        }
        self.add_seconds(progress)
        progress.pending = []
        self._started, self._steps, self._flops, self._data_seconds = self._counted, 0, 0.0, 0.0
        self._images = self._tokens = 0
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}


class NonFiniteLoss(UserError):
    """A step whose losses or gradient were not finite; the weights are those before it.

    Attributes:
        step: its number.
        details: step, losses, gradient norm and the ids of the documents that this rank had read, as JSON.
    """

    def __init__(self, step: int, losses: Mapping[str, float], norm: float, documents: list[str]) -> None:
        super().__init__(
            f"the loss is no longer a number at step {step}; its documents are listed in {NONFINITE_FILE}. "
            "Lower optimizer.lr, lengthen optimizer.warmup_steps or set optimizer.max_grad_norm, and resume from the "
            "last checkpoint",
            code="diverged",
            field="optimizer.lr",
        )
        numbers = {name: value if math.isfinite(value) else str(value) for name, value in losses.items()}
        self.step = step
        self.details = {"step": step, "losses": numbers, "grad_norm": str(norm), "documents": documents}
