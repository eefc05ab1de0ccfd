"""Held-out losses, retrieval and nearest neighbours while a run trains, and the best of its weights.

Everything is computed with a copy of the weights: neither the mode of the
trained model, nor its gradients, its compiled blocks or the random generators change, so a run has bitwise identical
weights with and without a monitor. The first rank computes alone, so the numbers do not depend on the ranks.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from lcl_core.common.device import autocast, tf32_matmul
from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_tree, replace_tree, sha256_file, write_json_atomically
from lcl_core.common.run_dir import RunDir
from lcl_core.data.sampling.loader import DocumentBatch
from lcl_core.data.sampling.sources import Sample
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor, PackedBatch
from lcl_core.objectives import build_objective
from lcl_core.objectives.base import ContrastivePairs, EncodedBatch, GlobalBatch
from lcl_core.objectives.hard_negatives import NegativeCandidates
from lcl_core.ops.contrastive_loss import similarities
from lcl_core.specs.data import VIEW_ITEMS, AugmentationSpec, DataSpec, SourceSpec
from lcl_core.specs.pretrain import HELD_OUT, BatchSpec, PretrainSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model, progress_line
from lcl_core.train.train_step import ACCURACY, CONTRASTIVE, Collator, TrainingModule

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the weighted vote (arXiv 1805.01978, section 3.4)
_SEED = 0  # of the sample and its layout: the same in every run
_LABELS = ("concept", "class")  # kinds of labels that are tried, the preferred one first
_BLOCK = 1024  # rows of similarities at once


@dataclass
class _Sums:
    """What the held-out batches add up to.

    Attributes:
        losses: weighted sums of the losses by name; ``counts``: their items.
        metrics: (total, count) by name.
        latents: [n, E] L2-normalised pooled latents, in the order of the batches.
        images, texts: rows [n, E] and [M, E] to retrieve, ``owners`` [n] the text of each image.
        known: row of each text by its key.
    """

    losses: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    latents: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    known: dict[Any, int] = field(default_factory=dict)

    def add_metric(self, name: str, total: Tensor, count: float) -> None:
        row = self.metrics.setdefault(name, [0.0, 0.0])
        row[0] += float(total)
        row[1] += count

    def add_pairs(self, images: Tensor, texts: Tensor, keys: Sequence[Any]) -> None:
        """Row-aligned features. Equal ``keys`` count as one text, since no encoder can distinguish them."""
        self.images.append(images)
        for row, key in enumerate(keys):
            if key not in self.known:
                self.known[key] = len(self.known)
                self.texts.append(texts[row : row + 1])
            self.owners.append(self.known[key])


class HeldOutMonitor:
    """Measures a run on ``spec.monitor``, and keeps the best weights in ``artifacts/encoder_best``.

    All ranks make every call. The best weights so far are those in that folder, so checkpoints need no state for them.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        config: LCLConfig,
        stream: SampleStream,
        processor: LCLProcessor,
        run_dir: RunDir,
        ranks: RankGroup,
        device: torch.device,
    ) -> None:
        assert spec.monitor is not None
        self.spec, self.monitor, self.run_dir, self.ranks = spec, spec.monitor, run_dir, ranks
        self.processor, self._stream = processor, stream
        model, objective = build_model(config, _SEED), build_objective(spec.objective, config, _SEED)
        objective.before_training(model)
        model.configure_blocks(checkpointing=spec.engine.activation_checkpointing)
        self._copy = TrainingModule(model, objective).eval().requires_grad_(False).to(device)
        self._collator = Collator(objective, config, _SEED)
        self._batches: list[list[Sample]] = []
        self._labels: list[str | None] = []  # in the order of the batches

    def due(self, step: int) -> bool:
        return step == self.spec.steps or step % self.monitor.every == 0

    def evaluate(self, trained: TrainingModule, step: int) -> dict[str, float]:
        """Numbers by name, the same on all ranks. Raises: JobCancelled on all ranks where the run is to stop."""
        own = self._copy.state_dict()
        for name, tensor in trained.state_dict().items():  # all ranks gather sharded weights
            own[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
        numbers: dict[str, float]
        numbers = self.ranks.run_on_all_ranks(lambda: self._measure(step) if self.ranks.rank == 0 else None)[0]
        return numbers

    def best(self) -> dict[str, Any] | None:
        """Step, value, numbers and folder of the best weights so far; None: there are none yet."""
        folder = self.run_dir.best_encoder
        try:
            training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return {**training["best"], "path": folder.relative_to(self.run_dir.path).as_posix()}

    def result(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """Entry of the run's result. ``last``: the last metric line."""
        name, best = self.monitor.choose, self.best()
        if best is not None:
            best["hash"] = sha256_file(self.run_dir.path / best["path"] / "model.safetensors")
        return {
            "choose": name,
            "export": self.monitor.export,
            "last": {"step": last.get("step"), "value": last.get(name), "path": "artifacts/encoder"},
            "best": best,
        }

    def _measure(self, step: int) -> dict[str, float]:
        started, model, device = time.monotonic(), self._copy.model, self._copy.model.device
        advance = progress_line(self.spec, self.run_dir, self.ranks, "measuring held-out data", step)
        if not self._batches:
            self._read(advance)
        sums, engine = _Sums(), self.spec.engine
        # the contrastive loss of a step is over all micro-batches of all ranks, so it is here
        together = engine.nodes * engine.processes * engine.accumulate
        with (
            torch.no_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            tf32_matmul(device, self.spec.precision),
            autocast(device, self.spec.precision),
        ):
            for first in range(0, len(self._batches), together):
                self._add_group(self._batches[first : first + together], sums, advance)
            means = {f"{name}_loss": sums.losses[name] / max(sums.counts[name], 1) for name in sums.losses}
            numbers = {"loss": sum(means.values()), **means}
            numbers |= {name: total / max(count, 1) for name, (total, count) in sums.metrics.items()}
            if sums.owners:
                owners = torch.tensor(sums.owners, device=device)
                numbers |= retrieval_recalls(torch.cat(sums.images), torch.cat(sums.texts), owners)
            often = {label for label, count in Counter(self._labels).items() if label and count > 1}
            if rows := [row for row, label in enumerate(self._labels) if label in often]:
                order = sorted(often)
                labels = torch.tensor([order.index(str(self._labels[row])) for row in rows], device=device)
                numbers["knn_accuracy"] = neighbour_accuracy(torch.cat(sums.latents)[rows], labels)
        numbers = {f"{HELD_OUT}{name}": round(value, 6) for name, value in numbers.items()}
        self._keep_best(model, step, numbers)
        return numbers | {f"{HELD_OUT}seconds": round(time.monotonic() - started, 3)}

    def _read(self, advance: Callable[[], None]) -> None:
        """Read the samples, until the next one would exceed the number of images."""
        samples: list[Sample] = []
        labels: dict[int, Mapping[str, str]] = {}  # by position
        budget, images = self.spec.batch, 0
        for position in range(self._stream.documents_per_epoch):
            advance()
            sample = self._stream[position]
            if not isinstance(sample, Sample):
                continue
            if len(sample.token_ids) > budget.tokens or len(sample.levels) > budget.images:
                continue
            images += len(sample.levels)
            if images > self.monitor.images:
                break
            samples.append(sample)
            labels[position] = self._stream.labels(position)
        if not samples:
            message = f"monitor: none of the documents of {self.monitor.dataset!r} can be used"
            raise UserError(message, code="no_data", field="monitor.dataset")
        kinds = _LABELS if self.monitor.label is None else (self.monitor.label,)
        kind = next((kind for kind in kinds if any(kind in each for each in labels.values())), kinds[0])
        self._batches = _fill_batches(samples, budget)
        self._labels = [labels[sample.position].get(kind) for batch in self._batches for sample in batch]

    def _add_group(self, group: Sequence[list[Sample]], sums: _Sums, advance: Callable[[], None]) -> None:
        """Micro-batches whose pairs are contrasted with each other."""
        model, objective = self._copy.model, self._copy.objective
        pairs: list[ContrastivePairs] = []
        waiting = []  # for the candidates of the whole group
        for samples in group:
            advance()
            batch = self._collator(DocumentBatch(samples)).to(model.device)
            sums.counts.update(objective.counts(batch))
            encoded: EncodedBatch = self._copy(batch)
            latents = F.normalize(encoded.activations.image_latents.float(), dim=-1)
            sums.latents.append(latents)
            if encoded.pairs is not None:
                pairs.append(encoded.pairs)
                if VIEW_ITEMS[self.monitor.view] == "documents":  # the contexts of their images
                    keys = batch.pair_groups.tolist()
                    sums.add_pairs(encoded.pairs.image_features, encoded.pairs.text_features, keys)
                else:  # captions, each encoded alone
                    rows = [_caption_row(sample, model.config) for sample in samples]
                    features = model.get_text_features(nn.utils.rnn.pad_sequence(rows, batch_first=True))
                    sums.add_pairs(latents, features, [tuple(row.tolist()) for row in rows])
            if encoded.candidates is None:
                self._add_losses(batch, encoded, GlobalBatch(), sums)
            else:
                waiting.append((batch, encoded, encoded.candidates))
        if waiting:
            longest = max(objective.max_text_length(batch) for batch, *_ in waiting)
            joint = NegativeCandidates.concatenate([candidates for *_, candidates in waiting], longest)
            for batch, encoded, _ in waiting:
                self._add_losses(batch, encoded, GlobalBatch(lambda _: joint), sums)
        if pairs:
            joined = ContrastivePairs.concatenate(pairs)
            count = len(joined.image_features)
            contrastive = joined.loss(model.logit_scale, [count])
            sums.losses[CONTRASTIVE] += float(contrastive.loss) * joined.weight
            sums.add_metric(ACCURACY, contrastive.correct, count)

    def _add_losses(self, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch, sums: _Sums) -> None:
        found = self._copy.objective.losses(self._copy.model, batch, encoded, global_batch)
        for name, loss in found.sums.items():
            sums.losses[name] += float(loss.total) * loss.weight
        for name, metric in found.metrics.items():
            sums.add_metric(name, metric.total, float(metric.count))

    def _keep_best(self, model: LCLModel, step: int, numbers: Mapping[str, float]) -> None:
        name = self.monitor.choose
        if name not in numbers:
            message = f"monitor.choose: there is no {name}: no two of the held-out images share a label"
            raise UserError(message, code="no_data", field="monitor.choose")
        value, best = numbers[name], self.best()
        sign = 1 if name.endswith("loss") else -1
        if best is not None and sign * value >= sign * best["value"]:
            return
        tensors = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
        training = {"best": {"step": step, "value": value, "numbers": dict(numbers)}}
        write_encoder(self.run_dir.best_encoder, model, tensors, self.processor, self.spec, training)


def held_out_data(spec: PretrainSpec) -> DataSpec:
    """The data of a run's monitor: whole images without augmentation."""
    monitor = spec.monitor
    assert monitor is not None
    source = SourceSpec(dataset=monitor.dataset, view=monitor.view, split=monitor.split)
    whole = AugmentationSpec(crop_scale=(1.0, 1.0))
    return spec.data.model_copy(update={"sources": (source,), "augmentation": whole, "weight_by": "documents"})


def write_encoder(
    target: Path,
    model: LCLModel,
    tensors: Mapping[str, Tensor],
    processor: LCLProcessor,
    spec: PretrainSpec,
    training: Mapping[str, Any],
) -> None:
    """Write an encoder's folder to disk as :func:`replace_tree` does.

    ``training.json`` in it gets the spec and ``training``.
    """
    partial = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=dict(tensors))
    processor.save_pretrained(partial)
    write_json_atomically(partial / "training.json", {**spec.model_dump(mode="json"), **training})
    fsync_tree(partial)
    replace_tree(partial, target)


def retrieval_recalls(images: Tensor, texts: Tensor, owners: Tensor) -> dict[str, float]:
    """Recall at 1 and 5 in both directions, and their means. A tie counts against the query.

    Args:
        images: [N, E] and texts: [M, E], L2-normalised.
        owners: [N] row of each image's text; each text has an image.
    """
    by_text, by_image = [], []
    for start in range(0, len(texts), _BLOCK):
        scores = similarities(texts[start : start + _BLOCK], images)
        right = owners == torch.arange(start, start + len(scores), device=owners.device)[:, None]
        best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
        by_text.append(((scores >= best) & ~right).sum(1) + 1)
    for start in range(0, len(images), _BLOCK):
        scores = similarities(images[start : start + _BLOCK], texts)
        own = owners[start : start + _BLOCK, None]
        by_image.append((scores >= scores.gather(1, own)).sum(1))
    ranks = {"text_to_image": torch.cat(by_text), "image_to_text": torch.cat(by_image)}
    found = {f"{way}_r{k}": float((rank <= k).float().mean()) for way, rank in ranks.items() for k in (1, 5)}
    means = {f"retrieval_r{k}": sum(found[f"{way}_r{k}"] for way in ranks) / 2 for k in (1, 5)}
    return means | found


def neighbour_accuracy(features: Tensor, labels: Tensor) -> float:
    """Share of images whose nearest others vote for their label, each with exp(cosine / temperature).

    Args:
        features: [N, E] L2-normalised.
        labels: [N] from 0.
    """
    right = 0
    classes = int(labels.max()) + 1
    for start in range(0, len(features), _BLOCK):
        scores = similarities(features[start : start + _BLOCK], features)
        scores.diagonal(start).fill_(float("-inf"))  # an image is no neighbour of itself
        nearest, rows = scores.topk(min(NEIGHBOURS, len(features) - 1))
        votes = torch.zeros(len(scores), classes, device=features.device)
        votes.scatter_add_(1, labels[rows], (nearest / TEMPERATURE).exp())
        right += int((votes.argmax(1) == labels[start : start + _BLOCK]).sum())
    return right / len(features)


def _fill_batches(samples: Sequence[Sample], budget: BatchSpec) -> list[list[Sample]]:
    """The samples in order, in batches of at most the budget; each batch longest first, as a collator orders it."""
    batches: list[list[Sample]] = [[]]
    for sample in samples:
        extended = [*batches[-1], sample]
        tokens = sum(len(each.token_ids) for each in extended)
        images = sum(len(each.levels) for each in extended)
        if len(extended) > 1 and (tokens > budget.tokens or images > budget.images):
            batches.append([sample])
        else:
            batches[-1] = extended
    return [sorted(batch, key=lambda sample: -len(sample.token_ids)) for batch in batches]


def _caption_row(sample: Sample, config: LCLConfig) -> Tensor:
    """``sot text eot`` of a pair."""
    ids = torch.from_numpy(sample.token_ids).long()
    text = ids[~torch.isin(ids, torch.tensor(config.special_token_ids))]
    return torch.cat((torch.tensor([config.sot_token_id]), text, torch.tensor([config.eot_token_id])))
