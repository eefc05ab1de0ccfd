"""Keys and values of the tokens that have been read, with room behind them for those that come."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64  # places at least; transformers' own layers copy everything they hold for each token


class RoomyCache(Cache):
    """A cache for transformers' decoding that writes a new token in place. Not for use under autograd."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_RoomyLayer)


class _RoomyLayer(DynamicLayer):
    """``keys`` and ``values`` [B, H, L, D] are the front of something longer, unless beams have just been reordered."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add tokens [B, H, n, D]. Returns: all keys and values, [B, H, L + n, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = _extended(self.keys, key_states), _extended(self.values, value_states)
        return self.keys, self.values


def _extended(kept: Tensor | None, new: Tensor) -> Tensor:
    """``kept`` and behind it ``new``: in its own storage if that has room, else in a longer one."""
    if kept is None or kept.numel() == 0:
        kept = new[:, :, :0]
    length = kept.shape[2] + new.shape[2]
    if not kept.shape[2] or _places(kept) < length:
        batch, heads, _, width = new.shape
        roomy = new.new_empty(batch, heads, length + max(_ROOM, length // 2), width)[:, :, :length]
        roomy[:, :, : kept.shape[2]] = kept
    else:
        roomy = kept.as_strided((*kept.shape[:2], length, kept.shape[3]), kept.stride())
    roomy[:, :, kept.shape[2] :] = new
    return roomy


def _places(kept: Tensor) -> int:
    """How many tokens [B, H, L, D] has place for between one head's and the next one's; L where it is no front."""
    _, head, token, number = kept.stride()
    is_front = number == 1 and token == kept.shape[3] and kept.shape[0] * kept.shape[1] > 0
    return head // token if is_front else kept.shape[2]
