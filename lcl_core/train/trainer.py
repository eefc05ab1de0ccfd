"""A pre-training run, from a run directory to an exported encoder: resumable at any step, on any number of ranks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lcl_core.common.device import (
    compute_dtype,
    keep_freed_memory,
    limit_onednn_cache,
    onednn_fp32_matmul,
    pick_device,
)
from lcl_core.common.files import sha256_file, write_json_atomically
from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.data.sampling.loader import load_batches
from lcl_core.data.sampling.packing import Cursor, DocumentBatch
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.objectives.registry import build_objective
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.checkpoint.manager import CheckpointManager, LoadedCheckpoint
from lcl_core.train.checkpoint.state import TrainingProgress, restore_rng, rng_tensors, training_tensors
from lcl_core.train.distributed import RankGroup, init_process_group
from lcl_core.train.ema import Ema
from lcl_core.train.factory import Collator, build_config, build_model, build_tokenizer, open_corpora
from lcl_core.train.metrics import (
    MetricLogger,
    MetricsAggregator,
    NonFiniteLoss,
    add_data_counts,
    max_position_over_ranks,
    peak_flops,
)
from lcl_core.train.optimizer import build_optimizer, learning_rate, set_learning_rate
from lcl_core.train.train_step import TrainingStep


def train(spec: PretrainSpec, run_dir: RunDir, datasets: dict[str, str]) -> dict[str, Any]:
    """Run this rank of a pre-training in a process of its own. Returns and raises: as ``Trainer.run``."""
    keep_freed_memory()
    limit_onednn_cache()
    with init_process_group(pick_device(), spec.engine.collective_timeout, run_dir.artifacts):
        return Trainer(spec, run_dir, datasets).run()


class Trainer:
    """One pre-training run; with several processes, one of its ranks. All ranks make every call."""

    def __init__(self, spec: PretrainSpec, run_dir: RunDir, datasets: dict[str, str], workers: int = 1) -> None:
        self.spec, self.run_dir, self.workers = spec, run_dir, workers
        self.ranks = RankGroup()
        self.device = pick_device()
        corpora = open_corpora(spec, datasets)
        self.tokenizer = build_tokenizer(spec, corpora)
        config = build_config(spec, self.tokenizer)
        self.model: LCLModel = build_model(config, spec.seed).train()
        self.model.configure_blocks(checkpointing=spec.engine.activation_checkpointing, compiled=spec.engine.compile)
        self.model.to(self.device)
        self.objective = build_objective(spec.objective, config, spec.seed).to(self.device)
        rates = spec.optimizer
        # TrainingStep shards the model: what holds its parameters is built after it
        strategy = spec.engine.strategy
        self.step = TrainingStep(self.model, self.objective, self.ranks, spec.precision, strategy, rates.max_grad_norm)
        self.optimizer = build_optimizer(self.step.trained, rates.lr, rates.weight_decay, rates.betas, rates.eps)
        self.ema = None if spec.ema_decay is None else Ema(self.step.trained, spec.ema_decay)
        self.collator = Collator(self.objective, config, spec.kept_patches, spec.seed)
        self.stream = SampleStream(
            spec.data,
            corpora,
            self.tokenizer,
            num_image_tokens=spec.kept_patches,
            image_size=config.image_size,
            context_length=config.context_length,
            seed=spec.seed,
            numerics=spec.numerics,
            rank=self.ranks.rank,
            world=self.ranks.size,
        )
        self.progress = TrainingProgress()
        self.cursor = Cursor()
        self.last_line: dict[str, Any] = {}
        self._saved_at = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one.

        Returns: the run's result; empty on ranks other than the first.
        Raises: JobCancelled after SIGTERM, with a checkpoint on disk; UserError for bad data or a non-finite loss.
        """
        spec, engine = self.spec, self.spec.engine
        logger = MetricLogger(self.run_dir, engine.tensorboard) if self.ranks.rank == 0 else None
        with CheckpointManager(
            self.run_dir.checkpoints, spec.keep_checkpoints, spec.milestone_every, spec.async_checkpoint
        ) as checkpoints:
            self._restore(checkpoints)
            if logger:
                self.run_dir.truncate_metrics(self.progress.step)
            if self.progress.step < spec.steps:
                dtype = compute_dtype(self.device, spec.precision)
                metrics = MetricsAggregator(spec.steps, self.ranks, peak_flops(dtype, self.device, seconds=0.2))
                with onednn_fp32_matmul():
                    self._train(metrics, checkpoints, logger)
        if logger:
            logger.close()
        processor = LCLProcessor(self.tokenizer, self.model.config.image_size)
        return export_encoder(self.model, processor, self.run_dir, spec, self.progress, self.last_line, self.ema)

    def _restore(self, checkpoints: CheckpointManager) -> None:
        loaded = checkpoints.load_newest(training_tensors(self.step.trained, self.optimizer, self.ema))
        if checkpoints.passed_over and self.ranks.rank == 0:
            self.run_dir.write_notice("checkpoint_damaged", _describe_corruption(checkpoints.passed_over, loaded))
        if loaded is None:
            return
        self.progress = TrainingProgress(**loaded.state)
        # with another number of ranks, the stream is split anew: no document before this position is read again
        self.cursor = Cursor.from_json(loaded.rank_state.get("cursor", self.progress.position))
        restore_rng(loaded.rank_tensors.get("rng", {}))

    def _train(self, metrics: MetricsAggregator, checkpoints: CheckpointManager, logger: MetricLogger | None) -> None:
        spec = self.spec
        self._saved_at = time.monotonic()
        batches = load_batches(self.stream, self.cursor, spec.batch, self.workers, spec.data.packing_lookahead)
        while self.progress.step < spec.steps:
            self._step(batches, metrics)
            done = self.progress.step == spec.steps
            stop, overdue = self._poll()
            if self._logs(self.progress.step):
                self._log(metrics, logger)
            if done or stop or overdue or self.progress.step % spec.checkpoint_every == 0:
                self._save(metrics, checkpoints)
            if stop:
                checkpoints.wait()
                raise JobCancelled

    def _step(self, batches: Iterator[DocumentBatch], metrics: MetricsAggregator) -> None:
        started = time.monotonic()
        documents = [next(batches) for _ in range(self.spec.engine.accumulate)]
        waited = time.monotonic() - started
        packed = [self.collator(batch) for batch in documents]
        flops = sum(self.objective.flops(self.model.config, batch) for batch in packed)
        step = self.progress.step
        set_learning_rate(self.optimizer, learning_rate(step, self.spec.steps, self.spec.optimizer))
        report = self.step(self.optimizer, [batch.to(self.device) for batch in packed], self._logs(step + 1))
        self.objective.after_step(self.model)
        if self.ema is not None:
            self.ema.update(step)
        self.cursor = documents[-1].cursor
        self.progress.step += 1
        add_data_counts(self.progress, documents, self.ranks)
        metrics.add(self.progress.step, report, documents, flops, waited)

    def _logs(self, step: int) -> bool:
        """Whether ``step`` has a metric line."""
        return step == self.spec.steps or step % self.spec.log_every == 0

    def _poll(self) -> tuple[bool, bool]:
        """Whether any rank was requested to stop, and whether on any rank a timed checkpoint is due.

        All ranks must stop, or save, after the same step.
        """
        minutes = self.spec.checkpoint_minutes
        overdue = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        flags = self.ranks.all_gather_ints([int(self.run_dir.stop_requested), int(overdue)])
        return any(stop for stop, _ in flags), any(due for _, due in flags)

    def _log(self, metrics: MetricsAggregator, logger: MetricLogger | None) -> None:
        try:
            line = metrics.line(
                self.progress,
                lr=self.optimizer.param_groups[0]["lr"],
                logit_scale=float(self.model.logit_scale.detach().exp()),
                **self._data_counts(),
            )
        except NonFiniteLoss as error:
            self._report(error)
            raise
        self.last_line = line
        if logger:
            logger.write(line)

    def _data_counts(self) -> dict[str, int]:
        """Images of each source, and documents and images left out by reason, since the run began."""
        progress, sources = self.progress, self.spec.data.sources
        counts = {f"images.{number}.{source.dataset}": 0 for number, source in enumerate(sources)}
        for number, images in progress.source_images.items():
            counts[f"images.{number}.{sources[int(number)].dataset}"] = images
        counts |= {f"skipped.{reason}": count for reason, count in sorted(progress.skipped.items())}
        return counts | {f"left_out.{reason}": count for reason, count in sorted(progress.left_out.items())}

    def _save(self, metrics: MetricsAggregator, checkpoints: CheckpointManager) -> None:
        try:
            metrics.flush(self.progress)
        except NonFiniteLoss as error:
            self._report(error)
            raise
        self.progress.position = max_position_over_ranks(self.cursor.position, self.ranks)
        checkpoints.save(
            self.progress.step,
            training_tensors(self.step.trained, self.optimizer, self.ema),
            asdict(self.progress),
            rank_tensors={"rng": rng_tensors()},
            rank_state={"cursor": self.cursor.to_json()},
        )
        self._saved_at = time.monotonic()

    def _report(self, error: NonFiniteLoss) -> None:
        """Write the documents of every rank as an artifact."""
        documents = [name for rank in self.ranks.all_gather_object(error.details["documents"]) for name in rank]
        if self.ranks.rank == 0:
            self.run_dir.artifacts.mkdir(exist_ok=True)
            path = self.run_dir.artifacts / "not_a_number.json"
            write_json_atomically(path, {**error.details, "documents": documents})


def _describe_corruption(passed_over: list[tuple[str, str]], loaded: LoadedCheckpoint | None) -> str:
    """The damaged checkpoints, and where the run continued."""
    damaged = "; ".join(f"checkpoint {name} is damaged ({reason})" for name, reason in passed_over)
    if loaded is None:
        return f"{damaged}; none was whole, so the run began anew"
    return f"{damaged}; the run went on from that of step {loaded.step}"


def export_encoder(
    model: LCLModel,
    processor: LCLProcessor,
    run_dir: RunDir,
    spec: PretrainSpec,
    progress: TrainingProgress,
    last_metrics: dict[str, Any],
    ema: Ema | None = None,
) -> dict[str, Any]:
    """Write ``artifacts/encoder`` for LCLModel and LCLProcessor, with the averaged weights if there are any.

    All ranks call this, since sharded weights are gathered; rank 0 writes. ``training.json`` holds the spec, and in
    ``weights`` whether they are ``ema`` or ``last``.

    Returns: the run's result; empty on the other ranks.
    """
    with nullcontext() if ema is None else ema.swapped():
        tensors = full_state_dict(model)
    if _rank() > 0:
        return {}
    target = run_dir.artifacts / "encoder"
    partial = run_dir.artifacts / ".encoder.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(partial, state_dict=tensors)
    processor.save_pretrained(partial)
    weights = "last" if ema is None else "ema"
    write_json_atomically(partial / "training.json", {**spec.model_dump(mode="json"), "weights": weights})
    partial.rename(target)
    return {
        "encoder": {
            "path": "artifacts/encoder",
            "hash": sha256_file(target / "model.safetensors"),
            "parameters": model.num_parameters(),
            "images_seen": progress.images_seen,
            "documents_seen": progress.documents_seen,
            "tokens_seen": progress.tokens_seen,
            "skipped": progress.skipped,
            "left_out": progress.left_out,
            "steps": progress.step,
            "seconds": round(progress.seconds, 2),
        },
        "final": last_metrics,
    }


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the model's tensors on the CPU; empty on ranks other than 0, which help to gather."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if _rank() == 0:
            tensors[name] = whole.detach().to("cpu", copy=True)
    return tensors


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
