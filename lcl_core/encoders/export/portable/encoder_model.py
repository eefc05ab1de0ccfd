"""The encoders of Latent Compression Learning: images and texts to one space, without the losses of training.

An export copies this file beside the weights, and ``AutoModel.from_pretrained(DIR, trust_remote_code=True)`` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from lcl_core.model.modeling_lcl import LCLModel
from lcl_core.specs.pretrain import TEXT_CONTEXT_LENGTH


@dataclass
class LCLEncoderOutput(ModelOutput):
    """``image_embeds`` and ``text_embeds`` [n, E] of length 1; ``last_hidden_state``: patch features [n, N, W]."""

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None


class LCLEncoderModel(LCLModel):
    """``LCLModel`` whose forward pass gives the vectors of images and texts that do not belong together."""

    main_input_name = "pixel_values"

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor | None = None, input_ids: Tensor | None = None, **_: Any
    ) -> LCLEncoderOutput:
        """``pixel_values`` [n, 3, S, S] and / or ``input_ids`` [n, L], as the processor makes them."""
        patches = None if pixel_values is None else self.get_patch_features(pixel_values)
        return LCLEncoderOutput(
            image_embeds=None if patches is None else F.normalize(self.pool_project.pool(patches).float(), dim=-1),
            text_embeds=None if input_ids is None else self.get_text_features(input_ids),
            last_hidden_state=patches,
        )

    def get_text_features(
        self, input_ids: Tensor, context_length: int = TEXT_CONTEXT_LENGTH, normalize: bool = True
    ) -> Tensor:
        """Rows ``sot text eot 0 …`` [n, L] → [n, E]. A longer text is cut."""
        return super().get_text_features(input_ids, min(context_length, self.config.context_length), normalize)
