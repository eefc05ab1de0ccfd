"""The model's mathematics re-stated from its named weights: float64, one sequence at a time, nothing packed."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from lcl_core.model import LCLConfig


class ReferenceModel:
    """Weights by name, as leaves of a graph of their own.

    Attributes:
        own: the weights of the objective.
    """

    def __init__(self, model, objective):
        self.config: LCLConfig = model.config
        self.weights, self.own = (
            {name: p.detach().double().requires_grad_() for name, p in module.named_parameters()}
            for module in (model, objective)
        )

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        weights = self.own if f"{name}.weight" in self.own else self.weights
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(self, x, name):
        weights = self.own if f"{name}.weight" in self.own else self.weights
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def blocks(self, x, tower, layers, heads, causal):
        """[L, W] through the transformer blocks of a tower."""
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1) & causal
        for layer in range(layers):
            name = f"{tower}.transformer.resblocks.{layer}"
            normed = self.norm(x, f"{name}.ln_1")
            qkv = normed @ self.weights[f"{name}.attn.in_proj_weight"].T + self.weights[f"{name}.attn.in_proj_bias"]
            q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in qkv.chunk(3, dim=1))
            scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
            x = x + self.linear((scores.softmax(-1) @ v).transpose(0, 1).flatten(1), f"{name}.attn.out_proj")
            hidden = self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
            x = x + self.linear(0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)), f"{name}.mlp.c_proj")
        return x

    def patches(self, image):
        """[3, S, S] → [N, 3 * P * P], row by row."""
        side, size = self.config.patch_size, image.shape[1]
        corners = [(top, left) for top in range(0, size, side) for left in range(0, size, side)]
        return torch.stack([image[:, top : top + side, left : left + side].flatten() for top, left in corners])

    def see(self, image, blanks=(), blank=None):
        """[3, S, S] → patch features [N, W]; the patches ``blanks`` are replaced by ``blank``."""
        config, weights = self.config, self.weights
        embedded = list(self.patches(image.double()) @ weights["visual.conv1.weight"].flatten(1).T)
        for place in blanks:
            assert blank is not None
            embedded[place] = blank
        x = torch.stack([weights["visual.class_embedding"], *embedded]) + weights["visual.positional_embedding"]
        heads = config.vision_width // config.vision_head_width
        x = self.blocks(self.norm(x, "visual.ln_pre"), "visual", config.vision_layers, heads, causal=False)
        return self.norm(x, "visual.ln_post")[1:]

    def pool(self, features):
        """[N, W] → the latent [D] and the tokens [N, D]."""
        name, weights, heads = "pool_project.pooler", self.weights, self.config.pool_heads
        parts = {"q": weights["pool_project.query_token"][0], "k": features, "v": features}
        q, k, v = (
            self.norm(x, f"{name}.norm1_{part}") @ weights[f"{name}.cross_attn.{part}.weight"].T
            + weights[f"{name}.cross_attn.{part}_bias"]
            for part, x in parts.items()
        )
        mixed = []
        for one_q, one_k, one_v in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
            mixed.append((one_q @ one_k.T / one_q.shape[1] ** 0.5).softmax(-1) @ one_v)
        return self.linear(torch.cat(mixed, 1), f"{name}.cross_attn.proj")[0], self.linear(v, f"{name}.cross_attn.proj")

    def embed(self, ids, tokens):
        """[L, D], with the tokens of images in their placeholders' places."""
        images = iter(torch.cat([*tokens, torch.empty(0, self.config.text_width, dtype=torch.float64)]))
        table = self.weights["text.token_embedding.weight"]
        return torch.stack([next(images) if i == self.config.img_token_id else table[i] for i in ids])

    def read(self, embeddings, causal=True):
        """[L, D] → outputs [L, D]."""
        x = embeddings + self.weights["text.positional_embedding"][: len(embeddings)]
        return self.blocks(x, "text", self.config.text_layers, self.config.text_heads, causal)

    def predict(self, output):
        """[D] → logarithms of probabilities [V]."""
        return self.linear(self.norm(output, "lm_head.0"), "lm_head.1").log_softmax(-1)

    def context(self, output):
        """[D] at an image start → its feature [E]."""
        return unit(self.norm(output, "text.ln_final") @ self.weights["text.text_projection"])

    def contrast(self, images, texts):
        scores = self.weights["logit_scale"].exp() * torch.stack(list(images)) @ torch.stack(list(texts)).T
        wanted = torch.arange(len(scores))
        return (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2

    def next_tokens(self, ids, hidden):
        """Negative log-likelihoods of the words, ends and image starts of one document."""
        unpredicted = (self.config.img_token_id, self.config.eoi_token_id)
        return [
            -self.predict(hidden[place])[following]
            for place, following in enumerate(ids[1:])
            if following not in unpredicted
        ]


def unit(x):
    return x / x.norm()


def mean(items):
    return torch.stack(list(items)).mean()
