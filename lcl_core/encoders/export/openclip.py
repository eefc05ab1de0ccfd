"""OpenCLIP: why an encoder of ours cannot leave as one of its models.

The text tower would fit (a causal transformer that is read at its last token), and so would the vision tower's
patches. What has no place is the step from patches to the pooled latent:

* OpenCLIP's own ViT lets its attentional pooler look at the class token, too. For us that token is a register, which
  the pooler never sees, and no setting hides it.
* A timm trunk leaves the class token out, but its attention pooling reads the patches as they come from the last norm.
  Ours normalises them once more, and a norm of a norm with learnt gains cannot be folded into a projection.

So ``encode_image`` would be close, and wrong. Nothing is written instead.
"""

from __future__ import annotations

from pathlib import Path

from lcl_core.common.errors import UserError


def refusal() -> UserError:
    return UserError(
        "OpenCLIP cannot hold the attentive pooling of this encoder: its own ViT pools over the class token, which "
        "ours leaves out, and its timm trunks pool without the norms that ours has before keys and values; "
        "encode_image would be wrong. Take format=huggingface or onnx for both towers, timm for the vision tower",
        code="not_expressible", field="format",
    )  # fmt: skip


def write(directory: Path, target: Path) -> None:
    """Raises: UserError ``not_expressible``, always."""
    raise refusal()
