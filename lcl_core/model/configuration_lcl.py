"""The model's configuration: sizes of the towers, ids of the special tokens, weights of the losses."""

from __future__ import annotations

from typing import Any, Literal

from transformers import PretrainedConfig  # the name that versions 4 and 5 share

from lcl_core.specs.vision import DEFAULT_TOWER, TowerSizes, tower_kind

Numerics = Literal["fixed", "official"]
TextAttention = Literal["causal", "bidirectional"]


class LCLConfig(PretrainedConfig):
    """Configuration of :class:`LCLModel`; the defaults are the paper's ViT-B/32 for interleaved documents.

    Args:
        image_size, patch_size: side of the square input and of a patch, pixels.
        vision: the vision tower, ``vit``, ``resnet`` or ``timm:NAME``
            (``vision_towers.py``).
        vision_width, vision_layers, vision_head_width: of the vision tower; heads = width / head width.
        text_width, text_layers, text_heads: the causal transformer. The pooler's output and the contrastive
            space have the text tower's width, since patch tokens stand in the text stream and pooled latents are
            compared with its outputs.
        pool_heads: heads of the attentive pooling; none: as the text tower.
        context_length: rows of the text tower's position table.
        vocab_size: tokens with the specials.
        sot, eot, img, soi, eoi token ids: start and end of text, image placeholder, start and end of image.
        text_attention: how the text tower reads: ``causal``, or ``bidirectional`` after masked data modelling.
        contrastive_weight, generation_weight: of the two losses that ``LCLModel.forward`` gives; the paper's lambda is
            ``contrastive_weight``. Weights of other methods' losses are the training's (``ObjectiveSpec``).
        numerics: ``fixed`` mends the authors' faults, ``official`` is their behaviour to the letter.
    """

    model_type = "lcl"
    # other libraries read the width of a vector by these names
    attribute_map = {"hidden_size": "text_width", "projection_dim": "text_width"}  # noqa: RUF012 - as its base class

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 32,
        vision_width: int = 768,
        vision_layers: int = 12,
        vision_head_width: int = 64,
        text_width: int = 512,
        text_layers: int = 12,
        text_heads: int = 8,
        pool_heads: int | None = None,
        context_length: int = 2048,
        vocab_size: int = 49411,
        mlp_ratio: float = 4.0,
        activation: Literal["gelu", "quick_gelu"] = "gelu",
        sot_token_id: int = 49406,
        eot_token_id: int = 49407,
        img_token_id: int = 49408,
        soi_token_id: int = 49409,
        eoi_token_id: int = 49410,
        text_attention: TextAttention = "causal",
        contrastive_weight: float = 0.1,
        generation_weight: float = 1.0,
        numerics: Numerics = "fixed",
        vision: str = DEFAULT_TOWER,
        **kwargs: Any,
    ) -> None:
        heads_fit = not tower_kind(vision).patchwise or vision_width % vision_head_width == 0
        if image_size % patch_size or not heads_fit or text_width % text_heads:
            raise ValueError("patch_size must divide image_size, vision_head_width vision_width, text_heads text_width")
        self.vision = vision
        self.image_size = image_size
        self.patch_size = patch_size
        self.vision_width = vision_width
        self.vision_layers = vision_layers
        self.vision_head_width = vision_head_width
        self.text_width = text_width
        self.text_layers = text_layers
        self.text_heads = text_heads
        self.pool_heads = text_heads if pool_heads is None else pool_heads
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.mlp_ratio = mlp_ratio
        self.activation = activation
        self.sot_token_id = sot_token_id
        self.eot_token_id = eot_token_id
        self.img_token_id = img_token_id
        self.soi_token_id = soi_token_id
        self.eoi_token_id = eoi_token_id
        self.text_attention = text_attention
        self.contrastive_weight = contrastive_weight
        self.generation_weight = generation_weight
        self.numerics = numerics
        if misfit := tower_kind(vision).misfit(self.tower_sizes):
            raise ValueError(": ".join(misfit))
        super().__init__(**kwargs)

    @property
    def tower_sizes(self) -> TowerSizes:
        return TowerSizes(self.patch_size, self.vision_width, self.vision_layers, self.num_image_tokens)

    @property
    def num_image_tokens(self) -> int:
        """N, the patch tokens that an image takes in the document."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def special_token_ids(self) -> list[int]:
        """Those that are no words: start and end of text, placeholder, start and end of image."""
        return [self.sot_token_id, self.eot_token_id, self.img_token_id, self.soi_token_id, self.eoi_token_id]

    @property
    def embed_dim(self) -> int:
        """E, the width of the contrastive space (= the text tower's width)."""
        return self.text_width
