"""A pre-training run, from a run directory to an exported encoder: resumable at any step, on any number of ranks."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lcl_core.common.device import (
    compute_dtype,
    keep_freed_memory,
    limit_onednn_cache,
    onednn_fp32_matmul,
    use_device,
)
from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file, write_json_atomically
from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.sampling.loader import (
    Cursor,
    LoaderPool,
    default_workers,
    first_cursors,
    load_batches,
    redistribute_cursors,
)
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor
from lcl_core.objectives import build_objective
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.checkpoint import CheckpointManager
from lcl_core.train.distributed import RankGroup, gather_whole_tensors, init_process_group
from lcl_core.train.factory import (
    build_config,
    build_model,
    open_corpora,
    open_resident,
    prepare_tokenizer,
)
from lcl_core.train.metrics import (
    NONFINITE_FILE,
    MetricsAggregator,
    NonFiniteLoss,
    TrainingProgress,
    log_line,
    peak_flops,
    setup_lines,
    source_names,
    write_log,
)
from lcl_core.train.monitor import HeldOutMonitor, held_out_data, write_encoder
from lcl_core.train.optimizer import (
    build_optimizer,
    freeze_parts,
    learning_rate,
    random_state,
    restore_random_state,
    set_learning_rate,
    training_tensors,
)
from lcl_core.train.train_step import Collator, GlobalBatchCounts, StepInput, TrainingStep, prefetch, step_inputs
from lcl_core.train.warm_start import start_from_encoder


def train(spec: PretrainSpec, run_dir: RunDir, datasets: dict[str, str]) -> dict[str, Any]:
    """Run this rank of a pre-training in a process of its own; the result as of ``Trainer.run``.

    It also has ``dataset_hashes``, of the datasets that were registered without one.
    """
    keep_freed_memory()
    limit_onednn_cache()
    corpora = open_corpora(spec, datasets)
    # loader processes are forked before CUDA and the threads of libraries
    with (
        LoaderPool(corpora, loader_processes(spec)) as loaders,
        init_process_group(use_device()) as ranks,
        open_resident(spec, corpora, run_dir, ranks) as resident,
    ):
        result = Trainer(spec, run_dir, corpora, loaders, ranks, resident).run()
    if not result:
        return result
    known = run_dir.read_run().get("dataset_hashes", {})
    hashes: dict[str, str | None] = {}
    for name, corpus in corpora.items():
        if known.get(name) is None:  # else the whole corpus need not be read again
            hashes[name] = None
            with suppress(OSError, UserError):  # the training has succeeded, though its corpus is gone
                hashes[name] = corpus.content_hash()
    return {**result, "dataset_hashes": hashes}


def loader_processes(spec: PretrainSpec) -> int:
    """Loader processes of each rank. Counting GPUs asks the driver's library, and leaves CUDA alone."""
    if spec.data.workers is not None:
        return spec.data.workers
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return default_workers(ranks, gpu=torch.cuda.device_count() > 0)


class Trainer:
    """One pre-training run; with several processes, one of its ranks. All ranks make every call.

    Args:
        resident: folders of the datasets' decoded images (:func:`open_resident`); none: images are read and decoded.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        run_dir: RunDir,
        corpora: dict[str, Corpus],
        loaders: LoaderPool,
        ranks: RankGroup,
        resident: Mapping[str, Path] | None = None,
    ) -> None:
        self.spec, self.run_dir, self.loaders, self.ranks = spec, run_dir, loaders, ranks
        self.device = use_device()
        self.tokenizer = prepare_tokenizer(spec, corpora, run_dir, self.ranks)
        config = build_config(spec, self.tokenizer)
        self.model = self._build_model(config)
        self.objective = build_objective(spec.objective, config, spec.seed).to(self.device)
        rates = spec.optimizer
        # TrainingStep shards the model: what holds its parameters is built after it
        self.step = TrainingStep(
            self.model, self.objective, self.ranks, spec.precision, spec.engine.strategy, rates.max_grad_norm
        )
        self.optimizer = build_optimizer(self.step.trained, rates.lr, rates.weight_decay, rates.betas, rates.eps)
        on_gpu = self.device.type == "cuda"
        self.collator = Collator(self.objective, config, spec.seed, pin=on_gpu)
        self.stream = self._open_stream(spec.data, corpora, spec.seed, resident=resident)
        self.processor = LCLProcessor(self.tokenizer, config.image_size, spec.data.fit)
        self.monitor: HeldOutMonitor | None = None
        if spec.monitor is not None:
            held_out = self._open_held_out(corpora)
            self.monitor = HeldOutMonitor(spec, config, held_out, self.processor, run_dir, self.ranks, self.device)
        self.progress = TrainingProgress(
            tokenizer=hashlib.sha256(self.tokenizer.to_json().encode()).hexdigest(),
            sources=source_names(spec.data.sources),
            source_items=self.stream.source_items,
        )
        self.cursor = first_cursors(self.ranks.size)[self.ranks.rank]
        self.last_line: dict[str, Any] = {}
        self._saved_at, self._saved_step = time.monotonic(), 0

    def _build_model(self, config: LCLConfig) -> LCLModel:
        spec = self.spec
        model = build_model(config, spec.seed).train()
        start_from_encoder(model, self.tokenizer, spec.model, self.run_dir, main=self.ranks.rank == 0)
        freeze_parts(model, spec.model.freeze)
        model.configure_blocks(checkpointing=spec.engine.activation_checkpointing, compiled=spec.engine.compile)
        return model.to(self.device)

    def _open_stream(self, data: DataSpec, corpora: dict[str, Corpus], seed: int, **options: Any) -> SampleStream:
        spec, config = self.spec, self.model.config
        return SampleStream(
            data,
            corpora,
            self.tokenizer,
            num_image_tokens=config.num_image_tokens,
            image_size=config.image_size,
            context_length=config.context_length,
            seed=seed,
            numerics=spec.numerics,
            concepts=spec.objective.reads_concepts,
            **options,
        )

    def _open_held_out(self, corpora: dict[str, Corpus]) -> SampleStream:
        try:
            return self._open_stream(held_out_data(self.spec), corpora, 0)
        except UserError as error:
            field = f"monitor.{(error.field or 'dataset').rpartition('.')[2]}"
            raise UserError(f"{field}: {error.message}", code=error.code, field=field) from error

    def run(self) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one.

        Returns: the run's result; empty on ranks other than the first.
        Raises: JobCancelled after SIGTERM, with a checkpoint of the last step unless held-out data were being measured;
            UserError for bad data or a non-finite loss.
        """
        spec = self.spec
        with CheckpointManager(
            self.run_dir.checkpoints, self.ranks, spec.keep_checkpoints, spec.milestone_every,
            on_written=lambda step: write_log(f"checkpoint  step {step}"),
        ) as self.checkpoints:  # fmt: skip
            self._restore()
            if self.ranks.rank == 0:
                write_log(*setup_lines(spec, self.model, self.device, self.ranks.size, self.progress.step))
                self.run_dir.truncate_metrics(self.progress.step)
                # the result's, if all steps were done by an earlier attempt
                self.last_line = {k: v for k, v in self.run_dir.last_metrics("loss").items() if k != "time"}
            if self.progress.step < spec.steps:
                peak = peak_flops(compute_dtype(self.device, spec.precision), self.device)
                self.metrics = MetricsAggregator(self.progress, spec.steps, self.ranks, peak, self.device)
                with onednn_fp32_matmul():
                    self._train()
            self.checkpoints.wait()  # before the export, in which all ranks take part
        return self._export()

    def _restore(self) -> None:
        state = self.checkpoints.load_newest(training_tensors(self.step.trained, self.optimizer))
        new, restored = self.progress, TrainingProgress(**state) if state else None
        changed = restored.renumber_sources(new.sources, new.source_items) if restored else {}
        self._report_problems(restored, changed)
        if restored is None:
            return
        if restored.tokenizer != new.tokenizer:
            message = "the tokenizer is not the one of the checkpoint: put the run's own tokenizer.json back"
            raise UserError(message, code="conflict", file=self.run_dir.tokenizer_file)
        self.progress = restored
        cursors = [Cursor.from_json(cursor) for cursor in restored.cursors]
        if len(cursors) == self.ranks.size:
            restore_random_state(restored.random[self.ranks.rank], self.device)
        else:
            cursors = redistribute_cursors(cursors, self.ranks.size)
        self.cursor = cursors[self.ranks.rank]

    def _report_problems(self, restored: TrainingProgress | None, changed: Mapping[int, tuple[int, int]]) -> None:
        """Report damaged checkpoints, and sources whose number of items has changed since the run began.

        The run continues with the present items, in the order that their number determines.
        """
        problems: dict[str, str] = {}
        if passed_over := self.checkpoints.passed_over:
            damaged = "; ".join(f"checkpoint {name} is damaged ({reason})" for name, reason in passed_over)
            end = "none was whole, so the run began anew"
            if restored is not None:
                end = f"the run went on from that of step {restored.step}"
            problems["checkpoint_damaged"] = f"{damaged}; {end}"
        if changed:
            sources = self.spec.data.sources
            described = [
                f"data.sources.{number}: dataset {sources[number].dataset!r} has {now:,} items, had {before:,} before"
                for number, (before, now) in changed.items()
            ]
            problems["data_changed"] = f"{'; '.join(described)}: the run goes on with the new data, in another order"
        if problems and self.ranks.rank == 0:
            self.run_dir.write_notice(next(iter(problems)), "; ".join(problems.values()))

    def _train(self) -> None:
        spec = self.spec
        self._saved_at, self._saved_step = time.monotonic(), self.progress.step
        documents = load_batches(self.stream, self.cursor, spec.batch, self.loaders, self.ranks.size)
        steps = step_inputs(documents, spec.engine.accumulate, self.collator)
        with prefetch(steps, self.device) as inputs:
            while self.progress.step < spec.steps:
                started = time.monotonic()
                batch = next(inputs)
                waited = time.monotonic() - started
                counts = self.step.count([each.packed for each in batch.batches], self._flags())
                stop, overdue = (any(flags) for flags in zip(*counts.flags, strict=True))
                if (stop or overdue) and self.progress.step > self._saved_step:
                    self._save()
                if stop:
                    raise JobCancelled
                self._step(batch, counts, waited)
                if self._logs(self.progress.step):
                    self._log()
                if self.progress.step == spec.steps or self.progress.step % spec.checkpoint_every == 0:
                    self._save()

    def _step(self, batch: StepInput, counts: GlobalBatchCounts, waited: float) -> None:
        step = self.progress.step
        set_learning_rate(self.optimizer, learning_rate(step, self.spec.steps, self.spec.optimizer))
        report = self.step(self.optimizer, batch.batches, self._logs(step + 1), counts)
        self.objective.after_step(self.model)
        self.cursor = batch.documents[-1].cursor
        self.metrics.add(report, batch.documents, batch.flops, waited)

    def _logs(self, step: int) -> bool:
        """Whether ``step`` has a metric line."""
        monitored = self.monitor is not None and self.monitor.due(step)
        return step == self.spec.steps or step % self.spec.log_every == 0 or monitored

    def _flags(self) -> list[int]:
        """Whether this rank was requested to stop, and whether its timed checkpoint is due.

        Each step's counts have those of all ranks, which must stop, or save, after the same step.
        """
        minutes = self.spec.checkpoint_minutes
        overdue = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return [int(self.run_dir.stop_requested), int(overdue)]

    def _log(self) -> None:
        """Write the metric line of this step. Raises: JobCancelled while held-out data are measured."""
        self._flush()
        held_out: dict[str, float] = {}
        if self.monitor is not None and self.monitor.due(self.progress.step):
            started = time.monotonic()
            held_out = self.monitor.evaluate(self.step.trained, self.progress.step)
            self.metrics.exclude(time.monotonic() - started)
        line = self.metrics.line(
            lr=self.optimizer.param_groups[0]["lr"],
            logit_scale=float(self.model.logit_scale.detach().exp()),
            **self._data_counts(),
            **held_out,
        )
        self.last_line = line
        if self.ranks.rank == 0:
            self.run_dir.append_metrics(**line)
            write_log(log_line(line))

    def _data_counts(self) -> dict[str, int]:
        """Images of each source, and documents and images left out by reason, since the run began."""
        progress, sources = self.progress, self.spec.data.sources
        counts = {f"images.{number}.{source.dataset}": 0 for number, source in enumerate(sources)}
        for number, images in progress.source_images.items():
            counts[f"images.{number}.{sources[int(number)].dataset}"] = images
        counts |= {f"skipped.{reason}": count for reason, count in sorted(progress.skipped.items())}
        return counts | {f"left_out.{reason}": count for reason, count in sorted(progress.left_out.items())}

    def _save(self) -> None:
        self._flush()
        self.metrics.add_seconds()
        own = [self.cursor.to_json(), random_state(self.device)]
        self.progress.cursors, self.progress.random = map(list, zip(*self.ranks.all_gather_object(own), strict=True))
        tensors = training_tensors(self.step.trained, self.optimizer)
        self.checkpoints.save(self.progress.step, tensors, asdict(self.progress))
        self._saved_at, self._saved_step = time.monotonic(), self.progress.step

    def _flush(self) -> None:
        """Read the numbers of the last steps from the device. Raises: NonFiniteLoss, as ``MetricsAggregator.flush``."""
        try:
            self.metrics.flush()
        except NonFiniteLoss as error:
            if self.ranks.rank == 0:
                self.run_dir.artifacts.mkdir(exist_ok=True)
                write_json_atomically(self.run_dir.artifacts / NONFINITE_FILE, error.details)
            raise

    def _export(self) -> dict[str, Any]:
        """Write ``artifacts/encoder``, whose ``training.json`` holds the spec. All ranks gather sharded weights.

        Returns: the run's result, whose encoder are the best weights if the spec exports them; empty on other ranks
            than the first.
        """
        tensors = gather_whole_tensors(self.model)
        if self.ranks.rank > 0:
            return {}
        target = self.run_dir.artifacts / "encoder"
        write_encoder(target, self.model, tensors, self.processor, self.spec, {})
        progress = self.progress
        encoder = {
            "path": "artifacts/encoder",
            "hash": sha256_file(target / "model.safetensors"),
            "parameters": self.model.num_parameters(),
            "vocab_size": self.model.config.vocab_size,
            "images_seen": progress.images_seen,
            "documents_seen": progress.documents_seen,
            "tokens_seen": progress.tokens_seen,
            "flops": progress.flops,
            "skipped": progress.skipped,
            "left_out": progress.left_out,
            "steps": progress.step,
            "seconds": round(progress.seconds, 2),
        }
        result = {"encoder": encoder, "final": self.last_line}
        if self.monitor is not None:
            result["monitor"] = self.monitor.result(self.last_line)
            if self.monitor.monitor.export == "best" and (best := result["monitor"]["best"]):
                encoder |= {"path": best["path"], "hash": best["hash"], "steps": best["step"]}
        return result
