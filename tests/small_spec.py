"""The smallest pretrain spec that has every part: seconds on one core."""

from __future__ import annotations

from typing import Any

SMALL_PRETRAIN: dict[str, Any] = {
    "model": {
        "image_size": 32,
        "patch_size": 16,
        "vision_width": 32,
        "vision_layers": 1,
        "vision_head_width": 16,
        "text_width": 32,
        "text_layers": 1,
        "text_heads": 2,
        "context_length": 96,
    },
    "tokenizer": {"vocab_size": 400},
    "data": {
        "sources": [{"dataset": "sample", "view": "interleaved"}, {"dataset": "sample", "view": "pairs"}],
        "piece_images": 2,
    },
    "batch": {"tokens": 512, "images": 8},
    "optimizer": {"warmup_steps": 1},
    "steps": 6,
    "log_every": 1,
    "checkpoint_every": 3,
}
