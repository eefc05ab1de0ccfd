"""Generated cases for the reference model: weights by recipe, documents by layout, expected values.

The reference model is ``tests.reference_model``, which shares no code with ``lcl_core.model``.
``test_reference.py`` checks it against the authors' own tensors.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.reference_model import ReferenceLCL

SHIFT_INVARIANT = ("cross_attn.k_bias", "norm1_k.bias")  # their gradient is zero by mathematics
SPECIALS = ("<start_of_text>", "<end_of_text>", "<img_placehold>", "<start_of_img>", "<end_of_img>")


@dataclass(frozen=True)
class Case:
    """A small model and documents for it.

    Attributes:
        layouts: documents of ``"sot"``, ``"eot"``, ``"image"`` (start, placeholders, end), ``"open"`` (an image
            whose end was overwritten by the cut) and numbers of random text tokens.
        padding: columns of zeros behind the longest document.
    """

    seed: int
    official: dict[str, Any]
    layouts: tuple[tuple[str | int, ...], ...]
    padding: int = 0

    @property
    def specials(self):
        return dict(zip(("sot", "eot", "img", "soi", "eoi"), self.official["special_token_ids"].values(), strict=True))

    @property
    def patches(self):
        vision = self.official["vision_cfg"]
        return (vision["image_size"] // vision["patch_size"]) ** 2

    def inputs(self):
        """Images [n, 3, S, S] and right-padded rows [B, L]."""
        draw = np.random.RandomState(self.seed)
        rows = [self._row(layout, draw) for layout in self.layouts]
        ids = torch.zeros(len(rows), max(map(len, rows)) + self.padding, dtype=torch.long)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        count, side = int((ids == self.specials["soi"]).sum()), self.official["vision_cfg"]["image_size"]
        return torch.from_numpy(draw.standard_normal((count, 3, side, side)).astype(np.float32)), ids

    def texts(self, lengths, columns):
        """Rows ``sot text eot 0 …`` [n, columns]; a text that is too long has no ``eot`` within the columns."""
        draw = np.random.RandomState(self.seed + 1)
        ids = torch.zeros(len(lengths), max([columns, *(length + 2 for length in lengths)]), dtype=torch.long)
        for row, length in zip(ids, lengths, strict=True):
            row[: length + 2] = torch.tensor(self._row(("sot", length, "eot"), draw))
        return ids[:, :columns]

    def _row(self, layout, draw):
        special, row = self.specials, list[int]()
        start = [special["soi"], *[special["img"]] * self.patches]
        blocks = {"sot": [special["sot"]], "eot": [special["eot"]], "image": [*start, special["eoi"]], "open": start}
        for item in layout:
            row += blocks[item] if isinstance(item, str) else draw.randint(1, special["sot"], item).tolist()
        return row


def official_config(
    image, patch, vision, text, pool_heads, context,
    vocabulary, **extra
):  # fmt: skip
    """The authors' model JSON. ``vision``: width, layers, head width; ``text``: width, layers, heads."""
    return {
        "embed_dim": text[0],
        "vision_cfg": {
            "image_size": image, "layers": vision[1], "width": vision[0], "head_width": vision[2],
            "patch_size": patch, "mlp_ratio": 4.0,
        },
        "text_cfg": {
            "context_length": context, "vocab_size": vocabulary, "width": text[0], "heads": text[2],
            "layers": text[1],
        },
        "pool_project_cfg": {
            "pool_proj_type": "attn", "input_dim": vision[0], "output_dim": text[0], "attn_num_heads": pool_heads,
        },
        "special_token_ids": {name: vocabulary - 5 + place for place, name in enumerate(SPECIALS)},
        **extra,
    }  # fmt: skip


def random_case(seed):
    """Sizes, documents and padding at random; at least two contrastive pairs."""
    draw = random.Random(seed)
    text_heads, text_width = draw.choice([(1, 16), (2, 32), (3, 48), (4, 32)])
    head_width = draw.choice([16, 32])
    side, patch = draw.choice([(8, 8), (16, 8), (24, 8), (32, 8), (12, 4)])
    layouts = [("sot", draw.randint(1, 9), "image", draw.randint(1, 9), "image"), *_random_layouts(draw)]
    return Case(
        seed,
        official_config(
            side, patch, (head_width * draw.randint(1, 4), draw.randint(1, 3), head_width),
            (text_width, draw.randint(1, 4), text_heads), draw.choice([1, 2, 4]), context=200,
            vocabulary=draw.randint(20, 400), **({"quick_gelu": True} if draw.random() < 0.3 else {}),
        ),
        tuple(draw.sample(layouts, len(layouts))),
        padding=draw.choice([0, 0, 1, 20]),
    )  # fmt: skip


def _random_layouts(draw):
    for _ in range(draw.randint(1, 5)):
        beginning = draw.choice([("sot",), ("sot", draw.randint(1, 30)), ("image",)])
        middle = [draw.choice(["image", draw.randint(1, 20)]) for _ in range(draw.randint(0, 6))]
        yield *beginning, *middle, *draw.choice([("eot",), ("eot",), ("image",), ("open", "eot"), (3,)])


def recipe(name, shape, seed):
    """One parameter of the weight recipe of the reference tensors: a normal draw seeded by its name, scaled."""
    if name == "logit_scale":
        return torch.tensor(2.7)
    draw = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    z = torch.from_numpy(draw.standard_normal(int(np.prod(shape))).astype(np.float32)).view(*shape)
    if name == "query_token" or name.endswith(".query_token"):
        return z
    if name in ("visual.class_embedding", "visual.positional_embedding"):
        return z * shape[-1] ** -0.5
    if name in (fixed := {"text.positional_embedding": 0.05, "text.token_embedding.weight": 0.1}):
        return z * fixed[name]
    if name == "text.text_projection":
        return z * shape[0] ** -0.5
    if len(shape) == 1:
        return 1 + 0.1 * z if name.endswith(".weight") else 0.05 * z
    return z * float(np.prod(shape[1:])) ** -0.5


def recipe_weights(shapes, seed):
    return {name: recipe(name, shape, seed) for name, shape in shapes.items()}


def reference_model(config, weights, dtype=torch.float32):
    """The reference with these weights; in fp32 it shares their memory."""
    with torch.device("meta"):
        model = ReferenceLCL(config)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
    return model


def encode_text(model, ids, context_length):
    """Texts as contexts: every end becomes an image start, a row that has none gets it in its last place."""
    config, ids = model.config, ids[:, :context_length].clone()
    ids[ids == config.eot_token_id] = config.soi_token_id
    ids[(ids != config.soi_token_id).all(dim=1), -1] = config.soi_token_id
    hidden = model.text(model.text.token_embedding(ids))
    return model.text.contrast(hidden[ids == config.soi_token_id])


def allowed(exact, plain):
    """How far from fp64 an output may lie: four times the reference's own fp32 error, with room for round-off."""
    scale = max(float(exact.detach().abs().max()), 1.0)
    return 4 * distance(plain, exact) + 3e-6 * scale


def distance(ours, exact):
    assert ours.shape == exact.shape
    return float((ours.detach().double() - exact.detach()).abs().max())
