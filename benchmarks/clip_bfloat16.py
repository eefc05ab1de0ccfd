"""A CLIP that loads in bfloat16 whoever loads it; lies in the model's folder, as the code of a model's own.

On a CPU infinity's ``--dtype bfloat16`` changes nothing for images: it is heeded with CUDA alone.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.clip.modeling_clip import CLIPModel


class InBfloat16(CLIPModel):
    @classmethod
    def from_pretrained(cls, *arguments: Any, **more: Any) -> Any:
        return super().from_pretrained(*arguments, **{**more, "torch_dtype": torch.bfloat16})
