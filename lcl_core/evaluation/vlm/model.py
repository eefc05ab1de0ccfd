"""Vision-language model: image encoder, MLP projector and causal language model; training and generation.

Patch features [n, N, W] pass the projector and replace the image placeholders among the token embeddings (LLaVA,
arXiv 2304.08485). Frozen transfer trains the projector; full transfer also trains the encoder and, where the spec says
so, the language model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init
from transformers import GenerationConfig, GenerationMixin

from lcl_core.common.device import Precision, compute_dtype
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import (
    FEATURE_SOURCES,
    FeatureSource,
    ImageBatchSource,
    count_steps,
    prefetch_map,
    train_head,
)
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.vlm.chat_format import TokenBatch, TokenSequence, collate
from lcl_core.evaluation.vlm.language_model import LanguageModel, LanguageModelFiles, load_language_model
from lcl_core.specs.evaluate import DecodingSpec, LanguageModelSpec, TuningSpec
from lcl_core.specs.pretrain import AugmentationSpec

if TYPE_CHECKING:
    from lcl_core.evaluation.tasks.base import EvalContext


_GELU_MEAN_SQUARE = 0.4252  # mean square of gelu(z) for a standard normal z


class MultimodalProjector(nn.Module):
    """Layer norm → linear W → D → GELU → linear D → D.

    Encoders of different origin give tokens of different size, so the input is normalised, without a scale and a
    shift that would fold into the first layer. The first answer has the size of the language model's own embeddings:
    what it has never seen comes at least in a volume that it knows.

    Args:
        width: W of the patch tokens.
        hidden: D of the language model.
        power: mean square of its embeddings.
    """

    def __init__(self, width: int, hidden: int, power: float, generator: torch.Generator) -> None:
        super().__init__()
        self.enter = skip_init(nn.Linear, width, hidden)
        self.leave = skip_init(nn.Linear, hidden, hidden)
        with torch.no_grad():
            self.enter.weight.normal_(0, width**-0.5, generator=generator)
            self.leave.weight.normal_(0, (power / (_GELU_MEAN_SQUARE * hidden)) ** 0.5, generator=generator)
            self.enter.bias.zero_()
            self.leave.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """[n, N, W] → [n, N, D]."""
        x = F.layer_norm(patches, patches.shape[-1:])
        return self.leave(F.gelu(self.enter(x)))


@torch.inference_mode()
def generate_answers(
    language: LanguageModel, prompts: Tensor, present: Tensor, spec: DecodingSpec, seed: int
) -> list[str]:
    """One answer a row; the same again for the same rows and ``seed``.

    Args:
        prompts: [B, L, D], padded on the left.
        present: [B, L] false where padding stands.
    """
    nucleus = spec.top_p is not None
    config = GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        num_beams=spec.beams,
        do_sample=nucleus,
        top_p=spec.top_p,
        top_k=0 if nucleus else None,
        temperature=spec.temperature if nucleus else None,
        eos_token_id=list(language.ends),
        pad_token_id=language.ends[0],
    )
    devices = [language.device] if language.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        ids = cast(GenerationMixin, language.model).generate(
            inputs_embeds=prompts, attention_mask=present.long(), generation_config=config
        )
    return [language.decode(row) for row in ids.tolist()]


_SAMPLED_EMBEDDINGS = 4096


class LlavaModel:
    """A bridge and the language model behind it.

    Args:
        width: W of the patch tokens.
        picture_tokens: N.
        seed: of the bridge's first weights.
    """

    def __init__(self, language: LanguageModel, width: int, picture_tokens: int, seed: int) -> None:
        self.language = language
        self.picture_tokens = picture_tokens
        generator = torch.Generator().manual_seed(seed)
        self.bridge = MultimodalProjector(width, language.width, _embedding_mean_square(language), generator).to(
            language.device
        )

    def loss(self, rows: TokenBatch, patches: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over the taught tokens; gradients reach the bridge through the language model.

        Args:
            patches: [n, N, W] of the rows' n pictures, in order.
        """
        rows = rows.to(self.language.device)
        logits = self.language.logits(self.embed(rows, patches), rows.predicts)
        return F.cross_entropy(logits.float(), rows.targets, label_smoothing=label_smoothing)

    def embed(self, rows: TokenBatch, patches: Tensor) -> Tensor:
        """[B, L, D] with what the bridge makes of ``patches`` in the pictures' places; ``rows`` on the device."""
        texts = self.language.embed(rows.ids)
        if not len(patches):
            return texts
        seen = self.bridge(patches).flatten(0, 1).to(texts.dtype)
        return texts.flatten(0, 1).index_copy(0, rows.slots, seen).view_as(texts)

    @torch.inference_mode()
    def say(self, prompts: Sequence[TokenSequence], patches: Tensor, spec: DecodingSpec, seed: int) -> list[str]:
        """An answer to each prompt. ``patches``: [n, N, W] of their n pictures, in order."""
        rows = collate(prompts, self.picture_tokens, left=True).to(self.language.device)
        return generate_answers(self.language, self.embed(rows, patches), rows.present, spec, seed)


def _embedding_mean_square(language: LanguageModel) -> float:
    """Mean square of the language model's embeddings."""
    some = torch.arange(min(_SAMPLED_EMBEDDINGS, len(language.embeddings)), device=language.device)
    with torch.no_grad():
        return float(language.embed(some).float().square().mean())


@dataclass(frozen=True)
class VisionLanguageModel:
    """A speaker on its ground.

    Attributes:
        language_lr: rate at which the language model learns along; none: it stays as it is.
    """

    ground: FeatureSource
    speaker: LlavaModel
    language_lr: float | None

    @torch.inference_mode()
    def say(
        self,
        view: ImageBatchSource,
        rows: Ints,
        prompts: Sequence[TokenSequence],
        spec: DecodingSpec,
        *,
        seed: int,
        on_batch: Callable[[int], None] = lambda answers: None,
    ) -> list[str]:
        """An answer to each prompt, which shows the picture of ``view`` at the place in ``rows``.

        Prompts of like length are answered together.

        Args:
            on_batch: called with the number of answers that were just given.
        """
        order = np.argsort([len(prompt.ids) for prompt in prompts], kind="stable")
        batches = [order[start : start + spec.batch_size] for start in range(0, len(order), spec.batch_size)]
        answers = [""] * len(prompts)
        for number, loaded in enumerate(prefetch_map(lambda picks: view.load(rows[picks]), batches)):
            picks = batches[number]
            asked = [prompts[pick] for pick in picks]
            said = self.speaker.say(asked, view.tokens(loaded), spec, seed + number)
            for pick, answer in zip(picks, said, strict=True):
                answers[pick] = answer
            on_batch(len(picks))
        return answers


def build_vlm(
    room: EvalContext,
    encoder: EvaluatedEncoder,
    transfer: str,
    files: LanguageModelFiles,
    spec: LanguageModelSpec,
    *,
    augmentation: AugmentationSpec,
    precision: Precision,
    field: str,
) -> VisionLanguageModel:
    """A new bridge, the language model as it lies there, and in full transfer a copy of the encoder.

    Args:
        field: of the evaluation's spec that holds ``spec``, for messages.
    """
    ground = FEATURE_SOURCES[transfer](room, encoder, augmentation)
    learns = transfer == "full" and spec.train
    dtype = compute_dtype(ground.device, "fp32" if learns else precision)
    language = load_language_model(
        files, room.cache.root.parent / "language_models", dtype=dtype, device=ground.device, field=field
    )
    speaker = LlavaModel(language, ground.width, encoder.tower.tokens, room.spec.seed)
    return VisionLanguageModel(ground, speaker, spec.lr if learns else None)


_SORT_WINDOW = 8  # batches whose examples are sorted by length among themselves


@dataclass(frozen=True)
class VLMExample:
    """A text to learn and its picture's row in the view; none where the text has no picture."""

    tokens: TokenSequence
    row: int | None


@dataclass(frozen=True)
class _LoadedBatch:
    rows: TokenBatch
    seen: Tensor | None
    count: int


def train_vlm(
    pupil: VisionLanguageModel,
    view: ImageBatchSource,
    examples: Sequence[VLMExample],
    spec: TuningSpec,
    *,
    seed: int,
    field: str,
    on_step: Callable[[int], None] = lambda examples: None,
) -> list[float]:
    """Train the pupil's bridge, and the encoder in full transfer; deterministic by ``seed``.

    Args:
        field: of the evaluation's spec that holds ``spec``, for messages.
        on_step: called with the number of examples of each step.

    Returns:
        the loss of each step.

    Raises:
        UserError: ``tuning_diverged``, or a picture that cannot be read.
    """
    speaker, language_lr = pupil.speaker, pupil.language_lr
    speaker.language.model.requires_grad_(language_lr is not None)
    beside = [] if language_lr is None else [(speaker.language.model, language_lr)]
    lengths = np.array([len(example.tokens.ids) for example in examples])

    def batches(epoch: int) -> Iterator[_LoadedBatch]:
        order = _batches_of_similar_length(lengths, spec.batch_size, seed, epoch)
        draws = (random.Random(f"{seed} {epoch} {number}") for number in range(len(order)))  # noqa: S311
        return prefetch_map(load, zip(order, draws, strict=True))

    def load(job: tuple[np.ndarray, random.Random]) -> _LoadedBatch:
        picks, draw = job
        chosen = [examples[pick] for pick in picks]
        shown = np.array([example.row for example in chosen if example.row is not None], np.int64)
        rows = collate([example.tokens for example in chosen], speaker.picture_tokens)
        return _LoadedBatch(rows, view.load(shown, draw) if len(shown) else None, len(chosen))

    def loss(batch: _LoadedBatch) -> Tensor:
        patches = torch.empty(0) if batch.seen is None else view.tokens(batch.seen)
        return speaker.loss(batch.rows, patches, spec.label_smoothing)

    return train_head(
        speaker.bridge, batches, loss, spec, steps=count_steps(spec, len(examples)), field=field,
        tower=pupil.ground.tower, beside=beside, on_step=lambda batch: on_step(batch.count),
    )  # fmt: skip


def _batches_of_similar_length(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Numbers of the examples of each batch: shuffled, sorted by length within windows, batches shuffled again."""
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    span = _SORT_WINDOW * batch_size
    windows = [shuffled[start : start + span] for start in range(0, len(shuffled), span)]
    ordered = np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows])
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [batches[place] for place in draw.permutation(len(batches))]
