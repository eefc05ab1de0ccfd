"""The floating-point operations of a training, estimated from sizes and counts alone.

The products that the mathematics needs, forward and backward (twice the forward), one pass through each tower a
picture and a document, padding not counted. A method that reads its documents several times computes more.
"""

from __future__ import annotations

from lcl_core.specs import ModelSpec, PretrainSpec

CLIP_TOKENS = 49_411
SPECIALS = 5
MLP_RATIO = 4


def training_flops(spec: PretrainSpec, images: int, tokens: int, documents: int) -> float:
    """Of a training that has read so many images, tokens (those of images among them) and documents."""
    model, patches = spec.model, spec.kept_patches
    vocabulary = CLIP_TOKENS if spec.tokenizer.kind == "clip" else spec.tokenizer.vocab_size + SPECIALS
    length = tokens / max(documents, 1)
    reading = tokens * model.text_layers * (_block(model.text_width) + _attention(length, model.text_width) / 2)
    texts = max(tokens - images * patches, 0)
    return 3.0 * (images * _picture(model, patches) + reading + texts * 2 * model.text_width * vocabulary)


def _picture(model: ModelSpec, patches: int) -> float:
    """Forward pass of one picture: patch embedding, blocks over patches and a class token, pooling."""
    embedding = model.num_image_tokens * 2 * 3 * model.patch_size**2 * model.vision_width
    token = _block(model.vision_width) + _attention(patches + 1, model.vision_width)
    pooling = patches * 2 * (2 * model.vision_width + model.text_width) * model.text_width
    return embedding + (patches + 1) * model.vision_layers * token + pooling


def _block(width: int) -> float:
    """One token through the matrices of one block: q, k, v, out and the MLP."""
    return 2 * width * width * (4 + 2 * MLP_RATIO)


def _attention(length: float, width: int) -> float:
    """One token's scores and mixing over ``length`` others in one layer."""
    return 4 * length * width
