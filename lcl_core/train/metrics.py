"""Progress and metrics of a training: what all ranks have read, means over the steps since the last line, rates.

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
from lcl_core.data.sampling.loader import DocumentBatch
from lcl_core.specs.data import SourceSpec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.train_step import StepReport

NONFINITE_FILE = "not_a_number.json"  # the artifact with the documents of the newest step without a finite gradient
_TOTALS = ("documents_seen", "images_seen", "tokens_seen", "flops")
_COUNTS = ("skipped", "left_out", "source_images")


@dataclass
class TrainingProgress:
    """Progress of a run over all ranks and attempts: all of a checkpoint's state that is not a tensor.

    Attributes:
        step: optimiser steps done.
        cursors: of each rank as JSON, where its next batch starts in the stream of all ranks.
        random: of each rank, its random generators (``random_state``).
        tokenizer: sha256 of its JSON.
        images_seen, documents_seen, tokens_seen: read by the steps.
        flops: useful floating-point operations of the steps.
        skipped, left_out: documents left out so far, and images left out of documents, by reason.
        sources: a name of each source of the data spec (``source_names``).
        source_images: images read, by number of the source.
        source_items: items in one epoch of each source, on which the order of the data depends.
        seconds: training time of all attempts.
        pending: losses and metrics, by name, of each step since the last metric line.
    """

    step: int = 0
    cursors: list[list[int]] = field(default_factory=list)
    random: list[dict[str, str]] = field(default_factory=list)
    tokenizer: str = ""
    images_seen: int = 0
    documents_seen: int = 0
    tokens_seen: int = 0
    flops: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    source_images: dict[str, int] = field(default_factory=dict)
    source_items: list[int] = field(default_factory=list)
    seconds: float = 0.0
    pending: list[dict[str, float]] = field(default_factory=list)

    def add(self, counts: Mapping[str, Any]) -> None:
        """Add what a rank has read, as ``read_counts`` gives it."""
        for name in _TOTALS:
            setattr(self, name, getattr(self, name) + counts[name])
        for name in _COUNTS:
            total = getattr(self, name)
            for key, count in counts[name].items():
                total[key] = total.get(key, 0) + count

    def renumber_sources(self, names: list[str], items: list[int]) -> dict[int, tuple[int, int]]:
        """Continue with these sources; those of a branch may differ. A source that was there before keeps its count.

        Returns: by number, the items that a source had and has, where these differ.
        """
        images = {name: self.source_images.get(str(number), 0) for number, name in enumerate(self.sources)}
        had = dict(zip(self.sources, self.source_items, strict=True))
        changed = {
            number: (had[name], has)
            for number, (name, has) in enumerate(zip(names, items, strict=True))
            if had.get(name, has) != has
        }
        self.source_images = {str(number): images[name] for number, name in enumerate(names) if images.get(name)}
        self.sources, self.source_items = names, items
        return changed


def source_names(sources: Sequence[SourceSpec]) -> list[str]:
    """A unique name of each source: dataset, view and split, and a number where all three are equal."""
    counts: Counter[str] = Counter()
    names = []
    for source in sources:
        name = f"{source.dataset} {source.view} {source.split}"
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name} {counts[name]}")
    return names


def read_counts(batches: Sequence[DocumentBatch], flops: float) -> dict[str, Any]:
    """What a step of this rank has read."""
    counts = {name: Counter[str]() for name in _COUNTS}
    for batch in batches:
        counts["skipped"].update(batch.skipped)
        counts["left_out"].update(batch.left_out)
        counts["source_images"].update({str(number): count.images for number, count in batch.by_source.items()})
    return {
        "documents_seen": sum(len(batch.samples) for batch in batches),
        "images_seen": sum(batch.images for batch in batches),
        "tokens_seen": sum(batch.tokens for batch in batches),
        "flops": flops,
        **counts,
    }


def peak_flops(dtype: torch.dtype, device: torch.device, seconds: float = 0.2) -> float:
    """Best rate of a square matrix product with the default settings, FLOP/s."""
    size = 2048 if device.type == "cpu" else 8192
    generator = torch.Generator(device).manual_seed(0)  # of its own: that of the run belongs to its checkpoint
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def write_log(*lines: str) -> None:
    """Print lines for people, which the run's log.txt gets."""
    print("\n".join(lines), flush=True)  # noqa: T201


def setup_lines(spec: PretrainSpec, model: nn.Module, device: torch.device, ranks: int, step: int) -> list[str]:
    """What a run trains, on what, with which data, and from which step."""
    batch, rates, window = spec.batch, spec.optimizer, spec.data.window_blocks
    where = f"{device.type}  {torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    dtype = str(compute_dtype(device, spec.precision)).removeprefix("torch.")
    lines = [
        f"spec  {spec.objective.name}  {spec.steps} steps  {batch.images} images, {batch.tokens} tokens a batch  "
        f"lr {rates.lr:g}  seed {spec.seed}",
        f"model  {sum(each.numel() for each in model.parameters()):,} parameters  {spec.model.image_size} px  "
        f"context {spec.model.context_length}",
        f"device  {where}  {dtype}  processes {ranks}",
        f"data  {'  '.join(f'{each.dataset} {each.view} × {each.weight:g}' for each in spec.data.sources)}",
        f"start  step {step}",
    ]
    if spec.data.order == "blocks" and window % ranks:
        lines.append(
            f"warning  data.window_blocks {window} is no multiple of {ranks} processes, so that blocks are read by "
            f"several of them; {-(-window // ranks) * ranks} would be"
        )
    return lines


def log_line(line: Mapping[str, Any]) -> str:
    """The line as people read it: step, losses, learning rate, speed."""
    own = [name for name in line if (name == "loss" or name.endswith("_loss")) and "." not in name]
    losses = [f"{name.removesuffix('_loss')} {line[name]:.4f}" for name in own]
    rest = {"lr": "lr {:.3g}", "images_per_s": "{:.1f} images/s", "held_out.loss": "held out {:.4f}"}
    others = [text.format(line[name]) for name, text in rest.items() if name in line]
    return "  ".join([f"step {line['step']}/{line['total_steps']}", *losses, *others])


@dataclass
class _PendingStep:
    """A step whose scalars are still on the device.

    Attributes:
        losses, metrics: names.
        values: [losses …, totals of metrics …, their counts …, gradient norm, finite].
        documents: their ids.
    """

    step: int
    losses: list[str]
    metrics: list[str]
    values: Tensor
    documents: list[str]


class MetricsAggregator:
    """Collects the steps of all ranks in ``progress``, since the last metric line or since this attempt began.

    Args:
        peak: FLOP/s of this rank's device, for the utilisation.
    """

    def __init__(
        self, progress: TrainingProgress, total_steps: int, ranks: RankGroup, peak: float, device: torch.device
    ) -> None:
        self.progress, self.total_steps, self.ranks, self.peak, self.device = progress, total_steps, ranks, peak, device
        self._cpu = CpuClock()
        self._pending: list[_PendingStep] = []
        self._read: list[dict[str, Any]] = []
        self._counted = time.monotonic()  # when the training time was last added to the progress
        self._start_interval()

    def _start_interval(self) -> None:
        self._started = time.monotonic()
        self._data_seconds = 0.0
        self._before = {name: getattr(self.progress, name) for name in ("step", *_TOTALS)}

    def add(self, report: StepReport, batches: Sequence[DocumentBatch], flops: float, waited: float) -> None:
        """Record a step: its batches, its floating-point operations, the seconds it waited for data."""
        self.progress.step += 1
        metrics = report.metrics.values()
        totals, counts = [metric.total for metric in metrics], [metric.count for metric in metrics]
        scalars = [*report.losses.values(), *totals, *counts, report.norm, report.finite]
        values = torch.stack([scalar.detach().to(report.finite) for scalar in scalars])
        documents = [sample.id for batch in batches for sample in batch.samples]
        names = list(report.losses), list(report.metrics)
        self._pending.append(_PendingStep(self.progress.step, *names, values, documents))
        self._read.append(read_counts(batches, flops))
        self._data_seconds += waited

    def flush(self) -> None:
        """Move what the steps have read, and their scalars from the device, into the progress of all ranks.

        Raises: NonFiniteLoss for a loss or gradient that was not finite.
        """
        pending, self._pending, read, self._read = self._pending, [], self._read, []
        scalars = iter(torch.cat([step.values for step in pending]).tolist() if pending else [])  # all at once
        own = [[next(scalars) for _ in range(len(step.values))] for step in pending]
        by_rank = self.ranks.all_gather_object([own, read])
        for _, counts in by_rank:
            for each in counts:
                self.progress.add(each)
        for number, step in enumerate(pending):
            shares = [rows[number] for rows, _ in by_rank]
            sums = [sum(column) for column in zip(*(row[:-2] for row in shares), strict=True)]
            norm, finite = shares[0][-2:]
            losses = dict(zip(step.losses, sums, strict=False))
            if not finite:
                documents = [name for rank in self.ranks.all_gather_object(step.documents) for name in rank]
                raise NonFiniteLoss(step.step, losses, norm, documents)
            numbers = {f"{name}_loss": loss for name, loss in losses.items()}
            totals, counts = sums[len(losses) :][: len(step.metrics)], sums[len(losses) + len(step.metrics) :]
            for name, total, count in zip(step.metrics, totals, counts, strict=True):
                numbers[name] = total / max(count, 1)
            self.progress.pending.append({**numbers, "grad_norm": norm})

    def add_seconds(self) -> None:
        """Add the training time since the last call to the progress, so that a checkpoint holds it."""
        now = time.monotonic()
        self.progress.seconds += now - self._counted
        self._counted = now

    def exclude(self, seconds: float) -> None:
        """Exclude from the rates and from the training time ``seconds`` that were not spent on training."""
        self._started += seconds
        self._counted += seconds

    def line(self, **more: float) -> dict[str, Any]:
        """The metric line of ``progress.step``; starts the next interval."""
        self.flush()
        progress, seconds = self.progress, time.monotonic() - self._started
        done = {name: getattr(progress, name) - before for name, before in self._before.items()}
        columns: dict[str, list[float]] = {}
        for row in progress.pending:
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in columns.items()}
        line = {
            "step": progress.step,
            "total_steps": self.total_steps,
            "loss": sum(value for name, value in means.items() if name.endswith("_loss")),
            **means,
            "images_per_s": done["images_seen"] / seconds,
            "tokens_per_s": done["tokens_seen"] / seconds,
            "mfu": done["flops"] / self.ranks.size / seconds / self.peak,
            "data_wait": self._data_seconds / seconds,
            "memory_gib": max(self.ranks.all_gather_object(peak_memory_gib(self.device))),
            "rss_gib": resident_gib(),
            "cpu_cores": self._cpu.cores(),
            "images_seen": progress.images_seen,
            "seconds_left": (self.total_steps - progress.step) * seconds / max(done["step"], 1),
            "skipped": sum(progress.skipped.values()),
            **more,
        }
        self.add_seconds()
        progress.pending = []
        self._start_interval()
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}


class NonFiniteLoss(UserError):
    """A step whose losses or gradient were not finite; the weights are those before it.

    Attributes:
        details: step, losses, gradient norm and the ids of the documents of all ranks, as JSON.
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
        self.details = {"step": step, "losses": numbers, "grad_norm": str(norm), "documents": documents}
