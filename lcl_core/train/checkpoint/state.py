"""State of a training run that a checkpoint holds: progress counters, random generators, weights and moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from lcl_core.common.errors import UserError
from lcl_core.data.sampling.packing import Cursor, redistribute_cursors
from lcl_core.specs.data import SourceSpec
from lcl_core.train.checkpoint.load import LoadedCheckpoint


@dataclass
class TrainingProgress:
    """Progress of a run: all state that is not a tensor.

    Attributes:
        step: optimiser steps done.
        cursors: of each rank as JSON, where its next batch starts in the stream of all ranks.
        tokenizer: sha256 of its JSON.
        images_seen, documents_seen, tokens_seen: read by the steps.
        skipped: documents left out so far, by reason.
        left_out: images left out of documents so far, by error code.
        sources: a name of each source of the data spec (``source_names``).
        source_images: images read, by number of the source.
        source_items: items in one epoch of each source, on which the order of the data depends.
        seconds: training time of all attempts.
        pending: losses and metrics, by name, of each step since the last metric line.
    """

    step: int = 0
    cursors: list[list[int]] = field(default_factory=list)
    tokenizer: str = ""
    images_seen: int = 0
    documents_seen: int = 0
    tokens_seen: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    source_images: dict[str, int] = field(default_factory=dict)
    source_items: list[int] = field(default_factory=list)
    seconds: float = 0.0
    pending: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TrainingProgress:
        if state.keys() != {each.name for each in fields(cls)}:
            message = "the checkpoint is of a version with other rules; start a new run, or resume with that version"
            raise UserError(message, code="checkpoint_mismatch")
        return cls(**state)

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


def restored_cursors(loaded: LoadedCheckpoint, ranks: int) -> list[Cursor]:
    """Where each of ``ranks`` continues: as it was, or redistributed where their number has changed."""
    cursors = [Cursor.from_json(cursor) for cursor in loaded.state["cursors"]]
    return cursors if len(cursors) == ranks else redistribute_cursors(cursors, ranks)


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """torch's generators: of the CPU and, where ``device`` is a GPU, of that. Each rank has its own."""
    tensors = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def restore_rng(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore ``rng_tensors``. A run that moved between CPU and GPU keeps the part that applies."""
    if "cpu" in tensors:
        torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], device)


_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The live tensors of ``model`` and ``optimizer``, not copied: writing into them changes the run."""
    return {"model": model.state_dict(), "optimizer": optimizer_tensors(model, optimizer)}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts as ``PARAMETER.MOMENT``.

    A parameter that has not been stepped gets the zeros with which its first step would begin, so that the names
    are the same before the first step and after any.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not (state := optimizer.state[parameter]):
                state |= _first_state(parameter, fused=bool(group["fused"]))
            tensors |= {f"{names[parameter]}.{moment}": state[moment] for moment in _MOMENTS}
    return tensors


def _first_state(parameter: Tensor, fused: bool) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), device=parameter.device if fused else None),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }
