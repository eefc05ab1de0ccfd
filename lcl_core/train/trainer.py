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

from lcl_core.common.device import compute_dtype, onednn_fp32_matmul, pick_device
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
from lcl_core.train.distributed import RankGroup
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


def export_encoder(
    model: LCLModel,
    processor: LCLProcessor,
    run_dir: RunDir,
    spec: PretrainSpec,
    progress: TrainingProgress,
    last_metrics: dict[str, Any],
    ema: Ema | None = None,
) -> dict[str, Any]:
    """Write ``artifacts/encoder`` with the averaged weights, if there are such, and return the run's result.

    All ranks call this, since sharded weights are gathered; rank 0 writes, and the others return an empty result.
    ``training.json`` holds the spec and says in ``weights`` which they are: ``ema`` or ``last``.
    """
    with nullcontext() if ema is None else ema.swapped():
        tensors = full_state_dict(model)
    if _rank() > 0:
        return {}
    target = run_dir.artifacts / "encoder"
    beside = run_dir.artifacts / ".encoder.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(beside, state_dict=tensors)
    processor.save_pretrained(beside)
    weights = "last" if ema is None else "ema"
    write_json_atomically(beside / "training.json", {**spec.model_dump(mode="json"), "weights": weights})
    beside.rename(target)
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


class Trainer:
    """One pre-training run; with several processes, one of its ranks, and all make every call."""

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
        # the step shards the model, so what holds its parameters comes after
        self.step = TrainingStep(
            self.model,
            self.objective,
            self.ranks,
            spec.precision,
            spec.engine.strategy,
            rates.max_grad_norm,
        )
        self.optimizer = build_optimizer(self.step.trained, rates.lr, rates.weight_decay, rates.betas, rates.eps)
        self.ema = None if spec.ema_decay is None else Ema(self.step.trained, spec.ema_decay)
        self.packer = Collator(self.objective, config, spec.kept_patches, spec.seed)
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
        Raises: Cancelled after SIGTERM, a checkpoint being on disk; UserError for data or losses that are no good.
        """
        spec, engine = self.spec, self.spec.engine
        journal = MetricLogger(self.run_dir, engine.tensorboard) if self.ranks.rank == 0 else None
        with CheckpointManager(
            self.run_dir.checkpoints, spec.keep_checkpoints, spec.milestone_every, spec.async_checkpoint
        ) as checkpointer:
            self._restore(checkpointer)
            if journal:
                self.run_dir.truncate_metrics(self.progress.step)
            if self.progress.step < spec.steps:
                dtype = compute_dtype(self.device, spec.precision)
                meter = MetricsAggregator(spec.steps, self.ranks, peak_flops(dtype, self.device, seconds=0.2))
                with onednn_fp32_matmul():
                    self._train(meter, checkpointer, journal)
        if journal:
            journal.close()
        processor = LCLProcessor(self.tokenizer, self.model.config.image_size)
        return export_encoder(self.model, processor, self.run_dir, spec, self.progress, self.last_line, self.ema)

    def _restore(self, checkpointer: CheckpointManager) -> None:
        loaded = checkpointer.load_newest(training_tensors(self.step.trained, self.optimizer, self.ema))
        if checkpointer.passed_over and self.ranks.rank == 0:
            self.run_dir.write_notice("checkpoint_damaged", _describe_corruption(checkpointer.passed_over, loaded))
        if loaded is None:
            return
        self.progress = TrainingProgress(**loaded.state)
        # with another number of ranks, shares are cut anew: no document before this place is read again
        self.cursor = Cursor.from_json(loaded.rank_state.get("cursor", self.progress.position))
        restore_rng(loaded.rank_tensors.get("rng", {}))

    def _train(self, meter: MetricsAggregator, checkpointer: CheckpointManager, journal: MetricLogger | None) -> None:
        spec = self.spec
        self._saved_at = time.monotonic()
        batches = load_batches(self.stream, self.cursor, spec.batch, self.workers, spec.data.packing_lookahead)
        while self.progress.step < spec.steps:
            self._step(batches, meter)
            done = self.progress.step == spec.steps
            stop, overdue = self._asked()
            if self._is_told(self.progress.step):
                self._log(meter, journal)
            if done or stop or overdue or self.progress.step % spec.checkpoint_every == 0:
                self._save(meter, checkpointer)
            if stop:
                checkpointer.wait()
                raise JobCancelled

    def _step(self, batches: Iterator[DocumentBatch], meter: MetricsAggregator) -> None:
        started = time.monotonic()
        read = [next(batches) for _ in range(self.spec.engine.accumulate)]
        waited = time.monotonic() - started
        packed = [self.packer(batch) for batch in read]
        flops = sum(self.objective.flops(self.model.config, batch) for batch in packed)
        step = self.progress.step
        set_learning_rate(self.optimizer, learning_rate(step, self.spec.steps, self.spec.optimizer))
        report = self.step(self.optimizer, [batch.to(self.device) for batch in packed], self._is_told(step + 1))
        if self.ema is not None:
            self.ema.update(step)
        self.cursor = read[-1].cursor
        self.progress.step += 1
        add_data_counts(self.progress, read, self.ranks)
        meter.add(self.progress.step, report, read, flops, waited)

    def _is_told(self, step: int) -> bool:
        """Whether there is a metric line of ``step``."""
        return step == self.spec.steps or step % self.spec.log_every == 0

    def _asked(self) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether the clock of any says that a checkpoint is due.

        All must leave, or save, after the same step. When it is saved changes nothing of the training.
        """
        minutes = self.spec.checkpoint_minutes
        overdue = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        answers = self.ranks.all_gather_ints([int(self.run_dir.stop_requested), int(overdue)])
        return any(stop for stop, _ in answers), any(due for _, due in answers)

    def _log(self, meter: MetricsAggregator, journal: MetricLogger | None) -> None:
        try:
            line = meter.line(
                self.progress,
                lr=self.optimizer.param_groups[0]["lr"],
                logit_scale=float(self.model.logit_scale.detach().exp()),
                **self._data_counts(),
            )
        except NonFiniteLoss as error:
            self._report(error)
            raise
        self.last_line = line
        if journal:
            journal.write(line)

    def _data_counts(self) -> dict[str, int]:
        """Images of each source, and what was left out for which reason, since the run began."""
        progress, sources = self.progress, self.spec.data.sources
        counts = {f"images.{number}.{source.dataset}": 0 for number, source in enumerate(sources)}
        for number, images in progress.source_images.items():
            counts[f"images.{number}.{sources[int(number)].dataset}"] = images
        counts |= {f"skipped.{reason}": count for reason, count in sorted(progress.skipped.items())}
        return counts | {f"left_out.{reason}": count for reason, count in sorted(progress.left_out.items())}

    def _save(self, meter: MetricsAggregator, checkpointer: CheckpointManager) -> None:
        try:
            meter.settle(self.progress)
        except NonFiniteLoss as error:
            self._report(error)
            raise
        self.progress.position = max_position_over_ranks(self.cursor.position, self.ranks)
        checkpointer.save(
            self.progress.step,
            training_tensors(self.step.trained, self.optimizer, self.ema),
            asdict(self.progress),
            rank_tensors={"rng": rng_tensors()},
            rank_state={"cursor": self.cursor.to_json()},
        )
        self._saved_at = time.monotonic()

    def _report(self, error: NonFiniteLoss) -> None:
        """Leave the facts as an artifact: the documents of every rank."""
        documents = [name for rank in self.ranks.all_gather_object(error.facts["documents"]) for name in rank]
        if self.ranks.rank == 0:
            self.run_dir.artifacts.mkdir(exist_ok=True)
            write_json_atomically(self.run_dir.artifacts / "not_a_number.json", {**error.facts, "documents": documents})


def _describe_corruption(passed_over: list[tuple[str, str]], loaded: LoadedCheckpoint | None) -> str:
    """What was found damaged, and what the run did then."""
    damaged = "; ".join(f"checkpoint {name} is damaged ({reason})" for name, reason in passed_over)
    if loaded is None:
        return f"{damaged}; none was whole, so the run began anew"
    return f"{damaged}; the run went on from that of step {loaded.step}"
