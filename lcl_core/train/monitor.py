"""Held-out losses, retrieval and nearest neighbours while a run trains, and the best of its weights.

Everything is computed with a copy of the weights: neither the mode of the
trained model, nor its gradients, its compiled blocks or the random generators change, so a run has bitwise identical
weights with and without a monitor. Ranks share the micro-batches, which are the same for any number of them.
With FSDP2 the copy is sharded as the trained model is, so that all ranks make the same number of forward passes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from lcl_core.common.device import autocast, tf32_matmul
from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_tree, replace_tree, sha256_file, write_json_atomically
from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.data.sampling.loader import DocumentBatch
from lcl_core.data.sampling.sources import Sample
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor, PackedBatch
from lcl_core.model.packed_batch import hash_tensors
from lcl_core.objectives import build_objective
from lcl_core.objectives.base import ContrastivePairs, EncodedBatch, GlobalBatch
from lcl_core.objectives.hard_negatives import NegativeCandidates
from lcl_core.ops.contrastive_loss import similarities
from lcl_core.specs.data import VIEW_ITEMS, AugmentationSpec, DataSpec, SourceSpec
from lcl_core.specs.pretrain import HELD_OUT, BatchSpec, PretrainSpec
from lcl_core.train.distributed import RankGroup, gather_whole_tensors, parallelize_model
from lcl_core.train.factory import build_model, progress_line
from lcl_core.train.train_step import ACCURACY, CONTRASTIVE, Collator, TrainingModule

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the weighted vote (arXiv 1805.01978, section 3.4)
_SEED = 0  # of the sample and its layout: the same in every run
_LABELS = ("concept", "class")  # kinds of labels that are tried, the preferred one first
_BLOCK = 1024  # rows of similarities at once
_READ_AT_ONCE = 64  # documents of each rank between two messages
Part = TypeVar("Part", ContrastivePairs, NegativeCandidates)


class _Document(NamedTuple):
    """What all ranks know about a document that can be used."""

    position: int
    tokens: int
    images: int
    labels: dict[str, str]


class _Share(NamedTuple):
    """What a rank computes of micro-batches whose pairs are contrasted with each other: as many as each other rank.

    Attributes:
        counted: of the micro-batches; those behind only keep the ranks together.
        label: kind of the labels of the nearest neighbours.
    """

    batches: list[list[_Document]]
    counted: int
    label: str


@dataclass
class _Sums:
    """What the held-out batches of a rank add up to.

    Attributes:
        totals: (total, count) of each loss, weighted, and of each other number.
        latents: [n, E] L2-normalised pooled latents, in the order of the batches; ``labels``: theirs.
        images, texts: rows [n, E] to retrieve; equal ``keys`` [n] are one text, which no encoder can distinguish.
    """

    totals: dict[str, list[float]] = field(default_factory=dict)
    latents: list[Tensor] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)

    def add(self, name: str, total: float, count: float) -> None:
        row = self.totals.setdefault(name, [0.0, 0.0])
        row[0] += total
        row[1] += count

    def add_pairs(self, images: Tensor, texts: Tensor, keys: Tensor, end: int | None) -> None:
        """Row-aligned features, up to row ``end``."""
        self.images.append(images[:end])
        self.texts.append(texts[:end])
        self.keys += keys[:end].tolist()

    def gather(self, ranks: RankGroup) -> _Sums:
        """Those of all ranks, on the first one."""
        own = [self.totals, self.labels, self.keys]
        latents, images, texts = (ranks.gather_rows(rows) for rows in (self.latents, self.images, self.texts))
        joint = _Sums(latents=latents, images=images, texts=texts)
        for totals, labels, keys in ranks.all_gather_object(own):
            for name, (total, count) in totals.items():
                joint.add(name, total, count)
            joint.labels += labels
            joint.keys += keys
        return joint


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
        if spec.engine.strategy == "fsdp2":
            parallelize_model(self._copy, model, "fsdp2")
        self._collator = Collator(objective, config, _SEED)
        self._shares: list[_Share] = []
        self._samples: dict[int, Sample] = {}  # of the shares, by position

    def due(self, step: int) -> bool:
        return step == self.spec.steps or step % self.monitor.every == 0

    def evaluate(self, trained: TrainingModule, step: int) -> dict[str, float]:
        """Numbers by name, the same on all ranks. Raises: JobCancelled on all ranks where the run is to stop."""
        started, own = time.monotonic(), self._copy.state_dict()
        for name, tensor in trained.state_dict().items():  # sharded alike
            own[name].copy_(tensor)
        advance = progress_line(self.spec, self.run_dir, self.ranks, "measuring held-out data", step)
        if not self._shares:
            self._read(advance)
        sums = self._measure(advance)
        ranks, main = self.ranks, self.ranks.rank == 0
        numbers: dict[str, float]
        numbers, improved = ranks.run_on_all_ranks(lambda: self._numbers(sums) if main else None)[0]
        if improved:
            tensors = gather_whole_tensors(self._copy.model)
            ranks.run_on_all_ranks(lambda: self._write_best(step, numbers, tensors) if main else None)
        return numbers | {f"{HELD_OUT}seconds": round(time.monotonic() - started, 3)}

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

    def _read(self, advance: Callable[[], None]) -> None:
        """Read the samples, until the next one would exceed the number of images; this rank keeps those of its shares.

        Ranks read in turn and exchange sizes and labels, from which all of them form the same micro-batches.
        """
        ranks, end, engine = self.ranks, self._stream.documents_per_epoch, self.spec.engine
        read: dict[int, Sample] = {}
        documents: list[_Document] = []
        images = 0
        for start in range(0, end, ranks.size * _READ_AT_ONCE):
            positions = range(start + ranks.rank, min(start + ranks.size * _READ_AT_ONCE, end), ranks.size)
            rows = ranks.run_on_all_ranks(partial(self._describe, positions, read, advance))
            for document in sorted((_Document(*row) for of_rank in rows for row in of_rank), key=itemgetter(0)):
                images += document.images
                if images <= self.monitor.images:
                    documents.append(document)
            if images > self.monitor.images:
                break
        if not documents:
            message = f"monitor: none of the documents of {self.monitor.dataset!r} can be used"
            raise UserError(message, code="no_data", field="monitor.dataset")
        kinds = _LABELS if self.monitor.label is None else (self.monitor.label,)
        kind = next((kind for kind in kinds if any(kind in each.labels for each in documents)), kinds[0])
        batches = _fill_batches(documents, self.spec.batch)
        # the contrastive loss of a step is over all micro-batches of all ranks, so it is here
        together = engine.nodes * engine.processes * engine.accumulate
        groups = [batches[first : first + together] for first in range(0, len(batches), together)]
        shares = [_share_of(group, ranks.rank, ranks.size, kind) for group in groups]
        wanted = {document.position for share in shares for batch in share.batches for document in batch}
        ranks.run_on_all_ranks(lambda: len(self._describe(sorted(wanted - read.keys()), read, advance)))
        self._samples = {position: read[position] for position in wanted}
        self._shares = shares

    def _describe(
        self, positions: Iterable[int], read: dict[int, Sample], advance: Callable[[], None]
    ) -> list[_Document]:
        """The documents that can be used, whose samples are added to ``read``."""
        found = []
        for position in positions:
            advance()
            sample = self._stream[position]
            if not isinstance(sample, Sample):
                continue
            tokens, images = len(sample.token_ids), len(sample.levels)
            if tokens <= self.spec.batch.tokens and images <= self.spec.batch.images:
                read[position] = sample
                found.append(_Document(position, tokens, images, dict(self._stream.labels(position))))
        return found

    def _measure(self, advance: Callable[[], None]) -> _Sums:
        """The sums of all ranks, on the first one. Raises: JobCancelled, on all ranks."""
        sums = _Sums()
        with self._inference():
            for share in self._shares:
                self._add_share(share, sums, advance)
        if isinstance(self._copy, FSDPModule):
            self._copy.reshard()
        return sums.gather(self.ranks)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        device, precision = self._copy.model.device, self.spec.precision
        with (
            torch.no_grad(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            tf32_matmul(device, precision),
            autocast(device, precision),
        ):
            yield

    def _add_share(self, share: _Share, sums: _Sums, advance: Callable[[], None]) -> None:
        """Micro-batches whose pairs are contrasted with each other and with those of the other ranks' shares."""
        model, objective, ranks = self._copy.model, self._copy.objective, self.ranks
        pairs: list[ContrastivePairs] = []
        waiting = []  # for the candidates of all shares
        stops = 0
        try:
            advance()
        except JobCancelled:  # all ranks stop at the same message
            stops = 1
        for number, documents in enumerate(share.batches):
            counted = number < share.counted
            end = None if counted else 0  # of the rows that count
            samples = [self._samples[document.position] for document in documents]
            batch = self._collator(DocumentBatch(samples)).to(model.device)
            encoded: EncodedBatch = self._copy(batch)
            latents = F.normalize(encoded.activations.image_latents.float(), dim=-1)
            sums.latents.append(latents[:end])
            items = objective.counts(batch) if counted else {}
            sums.labels += [document.labels.get(share.label) for document in documents[:end]]
            if encoded.pairs is not None:
                pairs.append(_first_rows(encoded.pairs, end))
                if VIEW_ITEMS[self.monitor.view] == "documents":  # the contexts of their images
                    sums.add_pairs(encoded.pairs.image_features, encoded.pairs.text_features, batch.pair_groups, end)
                else:  # captions, each encoded alone
                    rows = [_caption_row(sample, model.config) for sample in samples]
                    features = model.get_text_features(nn.utils.rnn.pad_sequence(rows, batch_first=True))
                    sums.add_pairs(latents, features, torch.tensor([hash_tensors(row) for row in rows]), end)
            if encoded.candidates is None:
                self._add_losses(batch, encoded, GlobalBatch(), sums, items)
            else:
                waiting.append((batch, encoded, items, _first_rows(encoded.candidates, end)))
        longest = max((objective.max_text_length(batch) for batch, *_ in waiting), default=0)
        own = [sum(len(part.image_features) for part in pairs), longest, stops]
        counts, lengths, stopped = zip(*ranks.all_gather_ints(own), strict=True)
        if any(stopped):
            raise JobCancelled
        if waiting:
            joint = NegativeCandidates.concatenate([part for *_, part in waiting], max(lengths)).all_gather(counts)
            for batch, encoded, items, _ in waiting:
                self._add_losses(batch, encoded, GlobalBatch(lambda _: joint), sums, items)
        if pairs:
            joined = ContrastivePairs.concatenate(pairs)
            contrastive = joined.loss(model.logit_scale, counts)
            sums.add(f"{CONTRASTIVE}_loss", float(contrastive.loss) * joined.weight, counts[ranks.rank])
            sums.add(ACCURACY, float(contrastive.correct), counts[ranks.rank])

    def _add_losses(
        self,
        batch: PackedBatch,
        encoded: EncodedBatch,
        global_batch: GlobalBatch,
        sums: _Sums,
        items: Mapping[str, int],
    ) -> None:
        """``items``: those of each loss; empty: nothing counts."""
        found = self._copy.objective.losses(self._copy.model, batch, encoded, global_batch)
        for name, loss in found.sums.items() if items else ():
            sums.add(f"{name}_loss", float(loss.total) * loss.weight, items[name])
        for name, metric in found.metrics.items() if items else ():
            sums.add(name, float(metric.total), float(metric.count))

    def _numbers(self, sums: _Sums) -> tuple[dict[str, float], bool]:
        """By name, of the sums of all ranks; and whether these weights are the best so far."""
        device = self._copy.model.device
        with self._inference():
            means = {name: total / max(count, 1) for name, (total, count) in sums.totals.items()}
            numbers = {"loss": sum(mean for name, mean in means.items() if name.endswith("_loss")), **means}
            if sums.keys:
                first: dict[int, int] = {}
                for row, key in enumerate(sums.keys):
                    first.setdefault(key, row)
                number = {key: text for text, key in enumerate(first)}
                owners = torch.tensor([number[key] for key in sums.keys], device=device)
                numbers |= retrieval_recalls(torch.cat(sums.images), torch.cat(sums.texts)[[*first.values()]], owners)
            often = {label for label, count in Counter(sums.labels).items() if label and count > 1}
            if rows := [row for row, label in enumerate(sums.labels) if label in often]:
                order = sorted(often)
                labels = torch.tensor([order.index(str(sums.labels[row])) for row in rows], device=device)
                numbers["knn_accuracy"] = neighbour_accuracy(torch.cat(sums.latents)[rows], labels)
        numbers = {f"{HELD_OUT}{name}": round(value, 6) for name, value in numbers.items()}
        name = self.monitor.choose
        if name not in numbers:
            message = f"monitor.choose: there is no {name}: no two of the held-out images share a label"
            raise UserError(message, code="no_data", field="monitor.choose")
        best, sign = self.best(), 1 if name.endswith("loss") else -1
        return numbers, best is None or sign * numbers[name] < sign * best["value"]

    def _write_best(self, step: int, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        best = {"step": step, "value": numbers[self.monitor.choose], "numbers": dict(numbers)}
        write_encoder(self.run_dir.best_encoder, self._copy.model, tensors, self.processor, self.spec, {"best": best})


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


def _fill_batches(documents: Sequence[_Document], budget: BatchSpec) -> list[list[_Document]]:
    """The documents in order, in batches of at most the budget; each batch longest first, as a collator orders it."""
    batches: list[list[_Document]] = [[]]
    for document in documents:
        extended = [*batches[-1], document]
        tokens, images = sum(each.tokens for each in extended), sum(each.images for each in extended)
        if len(extended) > 1 and (tokens > budget.tokens or images > budget.images):
            batches.append([document])
        else:
            batches[-1] = extended
    return [sorted(batch, key=lambda document: -document.tokens) for batch in batches]


def _share_of(group: list[list[_Document]], rank: int, ranks: int, label: str) -> _Share:
    size = -(-len(group) // ranks)
    own = group[rank * size : (rank + 1) * size]
    return _Share([*own, *group[: size - len(own)]], len(own), label)


def _first_rows(part: Part, end: int | None) -> Part:
    """Its tensors up to row ``end``; scalars stay."""
    rows: Part = tree_map_only(Tensor, lambda tensor: tensor[:end] if tensor.ndim else tensor, part)
    return rows


def _caption_row(sample: Sample, config: LCLConfig) -> Tensor:
    """``sot text eot`` of a pair."""
    ids = torch.from_numpy(sample.token_ids).long()
    text = ids[~torch.isin(ids, torch.tensor(config.special_token_ids))]
    return torch.cat((torch.tensor([config.sot_token_id]), text, torch.tensor([config.eot_token_id])))
