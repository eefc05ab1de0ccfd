"""Vision-language model: image encoder, MLP projector and causal language model; training, generation, checkpoint.

Patch features [n, N, W] pass the projector and replace the image placeholders among the token embeddings [B, L, D]
(LLaVA, arXiv 2304.08485). Frozen transfer trains the projector; full transfer also trains the encoder and, where the
spec says so, the language model. A checkpoint has the projector and what was trained with it:

    bridge.json                hashes of the encoder and the language model, sizes
    bridge.safetensors         the projector
    encoder.safetensors        full transfer: the fine-tuned image encoder
    language/                  where the language model was trained: model and tokenizer, Hugging Face layout
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init
from transformers import GenerationConfig, GenerationMixin

from lcl_core.common.device import compute_dtype
from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.common.processes import prefetch_map
from lcl_core.encoders.base import ImageEncoder
from lcl_core.evaluation.metrics import Ints
from lcl_core.evaluation.tasks.base import SplitImages
from lcl_core.evaluation.training import FeatureSource, train_head
from lcl_core.evaluation.vlm.language_model import (
    LanguageModel,
    TokenBatch,
    TokenSequence,
    collate,
    load_language_model,
    resolve_language_model,
)
from lcl_core.specs.evaluate import DecodingSpec, LanguageModelSpec, TuningSpec

_GELU_MEAN_SQUARE = 0.4252  # of gelu(z) for a standard normal z
_SAMPLED_EMBEDDINGS = 4096
CAPTIONED_AT_ONCE = 64  # images
_SORT_WINDOW = 8  # batches whose examples are sorted by length among themselves


class MultimodalProjector(nn.Module):
    """Layer norm → linear W → D → GELU → linear D → D.

    The input is normalised, since encoders differ in the size of their features; a scale and a shift would fold into
    the first layer. Outputs start with the mean square of the language model's own embeddings.

    Args:
        width: W of the patch features.
        hidden: D of the language model.
        mean_square: of its embeddings.
    """

    def __init__(self, width: int, hidden: int, mean_square: float, generator: torch.Generator) -> None:
        super().__init__()
        self.enter = skip_init(nn.Linear, width, hidden)
        self.leave = skip_init(nn.Linear, hidden, hidden)
        with torch.no_grad():
            self.enter.weight.normal_(0, width**-0.5, generator=generator)
            self.leave.weight.normal_(0, (mean_square / (_GELU_MEAN_SQUARE * hidden)) ** 0.5, generator=generator)
            self.enter.bias.zero_()
            self.leave.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """[n, N, W] → [n, N, D]."""
        x = F.layer_norm(patches, patches.shape[-1:])
        return self.leave(F.gelu(self.enter(x)))


class LlavaModel:
    """A projector and the language model behind it.

    Args:
        width: W of the patch features.
        image_tokens: N.
        seed: of the projector's initial weights.
    """

    def __init__(self, language: LanguageModel, width: int, image_tokens: int, seed: int) -> None:
        self.language = language
        self.image_tokens = image_tokens
        generator = torch.Generator().manual_seed(seed)
        sample = torch.arange(min(_SAMPLED_EMBEDDINGS, len(language.embeddings)), device=language.device)
        with torch.no_grad():
            mean_square = float(language.embed(sample).float().square().mean())
        self.projector = MultimodalProjector(width, language.embeddings.shape[1], mean_square, generator).to(
            language.device
        )

    def loss(self, batch: TokenBatch, patches: Tensor) -> Tensor:
        """Mean cross-entropy over the target tokens.

        Args:
            patches: [n, N, W] of the batch's n images, in order.
        """
        batch = batch.to(self.language.device)
        logits = self.language.logits(self.embed(batch, patches), batch.predicts)
        return F.cross_entropy(logits.float(), batch.targets)

    def embed(self, batch: TokenBatch, patches: Tensor) -> Tensor:
        """[B, L, D] with the projected ``patches`` at the images' positions; ``batch`` on the device."""
        texts = self.language.embed(batch.ids)
        if not len(patches):
            return texts
        images = self.projector(patches).flatten(0, 1).to(texts.dtype)
        return texts.flatten(0, 1).index_copy(0, batch.slots, images).view_as(texts)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[TokenSequence], patches: Tensor, spec: DecodingSpec) -> list[str]:
        """An answer to each prompt. ``patches``: [n, N, W] of their n images, in order."""
        batch = collate(prompts, self.image_tokens, left=True).to(self.language.device)
        return generate_answers(self.language, self.embed(batch, patches), batch.present, spec)


@torch.inference_mode()
def generate_answers(language: LanguageModel, prompts: Tensor, present: Tensor, spec: DecodingSpec) -> list[str]:
    """One answer a row by transformers' decoding.

    Args:
        prompts: [B, L, D] embeddings, padded on the left.
        present: [B, L] false at padding.
    """
    config = GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        num_beams=spec.beams,
        eos_token_id=list(language.ends),
        pad_token_id=language.ends[0],
    )
    ids = cast(GenerationMixin, language.model).generate(
        inputs_embeds=prompts, attention_mask=present.long(), generation_config=config
    )
    return [language.decode(row) for row in ids.tolist()]


VLMExample = tuple[TokenSequence, int | None]  # a text to learn, and the row of its image, if it has one


@dataclass(frozen=True)
class VisionLanguageModel:
    """An image encoder, frozen or fine-tuned, in front of a LlavaModel.

    Attributes:
        language_lr: rate of the language model; None: it is frozen.
    """

    source: FeatureSource
    llava: LlavaModel
    language_lr: float | None

    def train(self, split: SplitImages, examples: Sequence[VLMExample], spec: TuningSpec, field: str) -> list[float]:
        """Train the projector, and what the protocol adds, on images of a split; the loss of each step."""
        llava, language = self.llava, self.llava.language.model
        language.requires_grad_(self.language_lr is not None)
        batches, seed = self.source.batches(split), self.source.context.spec.seed
        lengths = np.array([len(tokens.ids) for tokens, _ in examples])

        def order(epoch: int) -> list[np.ndarray]:
            return _batches_of_similar_length(lengths, spec.batch_size, seed, epoch)

        def load(picks: np.ndarray, rng: random.Random) -> tuple[TokenBatch, Tensor | None]:
            chosen = [examples[pick] for pick in picks]
            rows = np.array([row for _, row in chosen if row is not None], np.int64)
            batch = collate([tokens for tokens, _ in chosen], llava.image_tokens)
            return batch, batches.load(rows, rng) if len(rows) else None

        def loss(batch: tuple[TokenBatch, Tensor | None]) -> Tensor:
            tokens, images = batch
            patches = torch.empty(0) if images is None else batches.patches(images)
            return llava.loss(tokens, patches)

        extra = [] if self.language_lr is None else [(language, self.language_lr)]
        return train_head(self.source, llava.projector, order, load, loss, spec, len(examples), field, extra=extra)

    @torch.inference_mode()
    def generate(
        self, split: SplitImages, rows: Ints, prompts: Sequence[TokenSequence], spec: DecodingSpec
    ) -> list[str]:
        """An answer to each prompt, whose image is at ``rows``. Prompts of similar length share a batch."""
        batches = self.source.batches(split)
        order = np.argsort([len(prompt.ids) for prompt in prompts], kind="stable")
        parts = [order[start : start + CAPTIONED_AT_ONCE] for start in range(0, len(order), CAPTIONED_AT_ONCE)]
        answers = [""] * len(prompts)
        for picks, loaded in zip(parts, prefetch_map(lambda picks: batches.load(rows[picks]), parts), strict=True):
            texts = self.llava.generate([prompts[pick] for pick in picks], batches.patches(loaded), spec)
            for pick, text in zip(picks, texts, strict=True):
                answers[pick] = text
            self.source.context.progress.heartbeat()
        return answers


def build_vlm(
    source: FeatureSource, transfer: str, files: Path, spec: LanguageModelSpec, field: str
) -> VisionLanguageModel:
    """A new projector behind the encoder of ``source``, and the stored language model."""
    context = source.context
    trains_language = transfer == "full" and spec.train
    dtype = compute_dtype(source.device, "fp32" if trains_language else "auto")
    cache = context.cache.root.parent / "language_models"
    language = load_language_model(files, cache, dtype=dtype, device=source.device, field=field)
    llava = LlavaModel(language, source.width, source.model.tokens, context.spec.seed)
    return VisionLanguageModel(source, llava, spec.lr if trains_language else None)


def _batches_of_similar_length(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Example numbers of each batch: shuffled, sorted by length within windows, batches shuffled again."""
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    span = _SORT_WINDOW * batch_size
    windows = [shuffled[start : start + span] for start in range(0, len(shuffled), span)]
    ordered = np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows])
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [batches[number] for number in rng.permutation(len(batches))]


_METADATA, _PROJECTOR, _ENCODER, _LANGUAGE = "bridge.json", "bridge.safetensors", "encoder.safetensors", "language"


def save_vlm(folder: Path, vlm: VisionLanguageModel, spec: LanguageModelSpec) -> None:
    """Write the folder anew. ``spec``: names the language model."""
    encoder = vlm.source.model  # with its weights before the training
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    llava, tuned = vlm.llava, vlm.source.trained_encoder
    save_model(llava.projector, str(folder / _PROJECTOR))
    if tuned is not None:
        save_model(tuned.module, str(folder / _ENCODER))
    if vlm.language_lr is not None:
        llava.language.model.save_pretrained(folder / _LANGUAGE)
        llava.language.tokenizer.save_pretrained(folder / _LANGUAGE)
    metadata = {
        "encoder": encoder.identity["weights"], "width": encoder.width, "tokens": encoder.tokens,
        "language": llava.language.weights_hash, "language_model": spec.model_dump(mode="json"),
    }  # fmt: skip
    write_json_atomically(folder / _METADATA, metadata)


def load_vlm(
    folder: Path,
    encoder: ImageEncoder,
    cache: Path,
    language_model: str | None = None,
) -> tuple[LlavaModel, ImageEncoder]:
    """The projector with its language model, and its image encoder.

    Args:
        encoder: as it was before the training; a fine-tuned copy is returned where there is one.
        cache: for the unpacked weights of GGUF files.
        language_model: folder of the language model, where it has moved.
    """
    try:
        metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise _unreadable(folder, f"has no {_METADATA} that can be read ({error})") from error
    if encoder.identity["weights"] != metadata["encoder"]:
        raise _unreadable(folder, "was taught on another encoder; name that one")
    spec = LanguageModelSpec(**metadata["language_model"])
    if language_model is not None:
        spec = spec.model_copy(update={"path": language_model})
    trained = (folder / _LANGUAGE).is_dir()
    own = spec.model_copy(update={"path": str(folder / _LANGUAGE)}) if trained else spec
    files = resolve_language_model(own, field="language_model")
    language = load_language_model(files, cache, dtype=torch.float32, device=encoder.device, field="language_model")
    if not trained and language.weights_hash != metadata["language"]:
        raise _unreadable(folder, "was taught before another language model; name that one")
    llava = LlavaModel(language, metadata["width"], metadata["tokens"], seed=0)
    try:
        load_model(llava.projector, str(folder / _PROJECTOR), device=str(encoder.device))
        if (folder / _ENCODER).is_file():
            encoder = encoder.copy()
            load_model(encoder.module, str(folder / _ENCODER), device=str(encoder.device))
            encoder.module.requires_grad_(False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, f"cannot be read ({error}); evaluate again") from error
    return llava, encoder


def _unreadable(folder: Path, problem: str) -> UserError:
    return UserError(f"this bridge {problem}", code="language_model_unreadable", field="bridge", file=folder)
