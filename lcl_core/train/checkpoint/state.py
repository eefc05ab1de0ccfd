"""State of a training run that a checkpoint holds: progress counters, random generators, weights and moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lcl_core.common.errors import UserError
from lcl_core.data.sampling.packing import Cursor, redistribute_cursors
from lcl_core.ops.cpu_kernels import NEWEST
from lcl_core.specs.data import SourceSpec

if TYPE_CHECKING:
    from lcl_core.train.checkpoint.manager import LoadedCheckpoint
    from lcl_core.train.ema import Ema


@dataclass
class TrainingProgress:
    """Progress of a run: all state that is not a tensor.

    Attributes:
        step: optimiser steps done.
        cursors: of each rank as JSON, where its next batch starts in the stream of all ranks.
        tokenizer: sha256 of its JSON; empty in states of older versions.
        images_seen, documents_seen, tokens_seen: read by the steps.
        skipped: documents left out so far, by reason.
        left_out: images left out of documents so far, by error code.
        sources: a name of each source of the data spec (``source_names``); empty in states of older versions.
        source_images: images read, by number of the source.
        source_items: items in one epoch of each source; empty in states of older versions. The order of the data
            depends on them.
        seconds: training time of all attempts.
        cuts_documents: whether documents end with what a loss reads (``Objective.cuts_documents``); false in runs that
            an older version began, which continue bitwise as before.
        cpu_kernels: generation of the kernels that the run computes with on a CPU, in ``lcl_core.ops.cpu_kernels``.
        contrastive_weight: of the next step, where the ratio of the gradients is held and has been measured.
        nonfinite_steps, nonfinite_in_a_row: steps without a finite gradient, which changed nothing: all, and the
            latest consecutive ones; none: there were none.
        pending: losses and metrics, by name, of each step since the last metric line; empty for one that changed
            nothing.
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
    contrastive_weight: float | None = None
    nonfinite_steps: int | None = None
    nonfinite_in_a_row: int | None = None
    cuts_documents: bool = True
    cpu_kernels: int = NEWEST

    def to_json(self) -> dict[str, Any]:
        """Without fields that do not apply, so that versions that do not know these can read it too."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TrainingProgress:
        """Raises: UserError ``checkpoint_mismatch`` for a state with fields that are not known here."""
        if unknown := state.keys() - {each.name for each in fields(cls)}:
            message = f"the checkpoint has the unknown field {min(unknown)!r}, so other rules; start a new run"
            raise UserError(message, code="checkpoint_mismatch", field=min(unknown))
        return cls(**{"cuts_documents": False, "cpu_kernels": 1, **state})

    def renumber_sources(self, names: list[str], items: list[int]) -> dict[int, tuple[int, int]]:
        """Continue with these sources; those of a branch may differ. A source that was there before keeps its count.

        Returns: by number, the items that a source had and has, where these differ.
        """
        unnamed = names if len(self.source_items) in (0, len(names)) else []
        before = self.sources or unnamed
        images = {name: self.source_images.get(str(number), 0) for number, name in enumerate(before)}
        had = dict(zip(before, self.source_items, strict=False))  # older states have no items
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


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None = None
) -> dict[str, dict[str, Tensor]]:
    """The live tensors of ``model``, ``optimizer`` and ``ema``, not copied: writing into them changes the run."""
    groups = {"model": model.state_dict(), "optimizer": optimizer_tensors(model, optimizer)}
    if ema is not None:
        groups["ema"] = ema.tensors
    return groups


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
