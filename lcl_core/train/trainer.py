"""The run: from a run directory to a trained encoder, through any number of interruptions."""

from __future__ import annotations

import math
from typing import Any

import torch

from lcl_core.data.loader import load_batches
from lcl_core.data.packing import DocumentBatch
from lcl_core.data.stream import SampleStream
from lcl_core.errors import UserError
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.objectives import get_objective
from lcl_core.rundir import RunDir
from lcl_core.specs import PretrainSpec
from lcl_core.train.batches import to_packed
from lcl_core.train.build import build_config, build_model, build_tokenizer, open_corpora
from lcl_core.train.checkpoint import Progress, load_newest, save_checkpoint
from lcl_core.train.device import autocast, pick_device
from lcl_core.train.export import export_encoder
from lcl_core.train.meter import Meter
from lcl_core.train.optimizer import build_optimizer, learning_rate, set_learning_rate


class Trainer:
    """One pre-training run on one device."""

    def __init__(self, spec: PretrainSpec, run_dir: RunDir, datasets: dict[str, str], workers: int = 1) -> None:
        self.spec, self.run_dir, self.workers = spec, run_dir, workers
        self.objective = get_objective(spec.objective.name)
        self.device = pick_device()
        corpora = open_corpora(spec, datasets)
        self.tokenizer = build_tokenizer(spec, corpora)
        config = build_config(spec, self.tokenizer)
        self.model: LCLModel = build_model(config, spec.seed).train()
        self.model.to(self.device)
        rates = spec.optimizer
        self.optimizer = build_optimizer(self.model, rates.lr, rates.weight_decay, rates.betas, rates.eps)
        self.stream = SampleStream(
            spec.data,
            corpora,
            self.tokenizer,
            num_image_tokens=config.num_image_tokens,
            image_size=config.image_size,
            context_length=config.context_length,
            seed=spec.seed,
            numerics=spec.numerics,
        )
        self.progress = Progress()
        self.last_line: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one.

        Returns: the run's result.
        Raises: Cancelled after SIGTERM, a checkpoint being on disk; UserError for data or losses that are no good.
        """
        restored = load_newest(self.run_dir.checkpoints, self.model, self.optimizer)
        self.progress = restored or Progress()
        self.run_dir.truncate_metrics(self.progress.step)
        if self.progress.step < self.spec.steps:
            self._train()
        processor = LCLProcessor(self.tokenizer, self.model.config.image_size)
        return export_encoder(self.model, processor, self.run_dir, self.spec, self.progress, self.last_line)

    def _train(self) -> None:
        batches = load_batches(self.stream, self.progress.position, self.spec.batch, self.workers)
        meter = Meter(self.spec.steps)
        for batch in batches:
            gradient_norm = self._step(batch, meter)
            done = self.progress.step == self.spec.steps
            if done or self.progress.step % self.spec.log_every == 0:
                self._log(meter, gradient_norm)
            if done or self.progress.step % self.spec.checkpoint_every == 0 or self.run_dir.stop_requested:
                meter.settle(self.progress)
                self._save()
                self.run_dir.raise_if_stopped()
            if done:
                return

    def _step(self, batch: DocumentBatch, meter: Meter) -> torch.Tensor:
        """One optimiser step. Returns: the gradient's norm, still on the device."""
        progress, rates = self.progress, self.spec.optimizer
        set_learning_rate(self.optimizer, learning_rate(progress.step, self.spec.steps, rates))
        packed = to_packed(batch, self.model.config).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.spec.precision):
            output = self.objective(self.model, packed)
        assert output.loss is not None
        output.loss.backward()
        limit = math.inf if rates.max_grad_norm is None else rates.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.model.clamp_logit_scale_()
        meter.add(output, batch)
        self._count(batch)
        return norm

    def _count(self, batch: DocumentBatch) -> None:
        progress = self.progress
        progress.step += 1
        progress.position = batch.next_position
        progress.images_seen += batch.images
        progress.documents_seen += len(batch.samples)
        progress.tokens_seen += batch.tokens
        for reason, count in batch.skipped.items():
            progress.skipped[reason] = progress.skipped.get(reason, 0) + count

    def _log(self, meter: Meter, gradient_norm: torch.Tensor) -> None:
        line = meter.line(
            self.progress,
            lr=self.optimizer.param_groups[0]["lr"],
            logit_scale=float(self.model.logit_scale.detach().exp()),
            grad_norm=float(gradient_norm),
        )
        if not math.isfinite(line["loss"]) or not math.isfinite(line["grad_norm"]):
            raise UserError(
                f"the loss is no longer a number at step {self.progress.step}; "
                "lower optimizer.lr, lengthen optimizer.warmup_steps or set optimizer.max_grad_norm",
                code="diverged",
                field="optimizer.lr",
            )
        self.last_line = line
        self.run_dir.append_metrics(**line)

    def _save(self) -> None:
        save_checkpoint(
            self.run_dir.checkpoints, self.model, self.optimizer, self.progress, self.spec.keep_checkpoints
        )
