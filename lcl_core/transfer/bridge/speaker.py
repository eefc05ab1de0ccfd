"""A language model that sees: patch tokens pass the bridge and stand among the embeddings of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.specs import DecodingSpec
from lcl_core.transfer.bridge.decoding import generate
from lcl_core.transfer.bridge.language import LanguageModel
from lcl_core.transfer.bridge.packing import Rows, Tokens, rows_of
from lcl_core.transfer.bridge.projection import Bridge

_SAMPLED_EMBEDDINGS = 4096


class Speaker:
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
        self.bridge = Bridge(width, language.width, _power(language), generator).to(language.device)

    def loss(self, rows: Rows, patches: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over the taught tokens; gradients reach the bridge through the language model.

        Args:
            patches: [n, N, W] of the rows' n pictures, in order.
        """
        rows = rows.to(self.language.device)
        logits = self.language.logits(self.embed(rows, patches), rows.predicts)
        return F.cross_entropy(logits.float(), rows.targets, label_smoothing=label_smoothing)

    def embed(self, rows: Rows, patches: Tensor) -> Tensor:
        """[B, L, D] with what the bridge makes of ``patches`` in the pictures' places; ``rows`` on the device."""
        texts = self.language.embed(rows.ids)
        if not len(patches):
            return texts
        seen = self.bridge(patches).flatten(0, 1).to(texts.dtype)
        return texts.flatten(0, 1).index_copy(0, rows.slots, seen).view_as(texts)

    @torch.inference_mode()
    def say(self, prompts: Sequence[Tokens], patches: Tensor, spec: DecodingSpec, seed: int) -> list[str]:
        """An answer to each prompt. ``patches``: [n, N, W] of their n pictures, in order."""
        rows = rows_of(prompts, self.picture_tokens, left=True).to(self.language.device)
        return generate(self.language, self.embed(rows, patches), rows.present, spec, seed)


def _power(language: LanguageModel) -> float:
    """Mean square of the language model's embeddings."""
    some = torch.arange(min(_SAMPLED_EMBEDDINGS, len(language.embeddings)), device=language.device)
    with torch.no_grad():
        return float(language.embed(some).float().square().mean())
