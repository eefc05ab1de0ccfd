"""Inference: texts and images of a request, embeddings, generated texts, attention maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.schemas.base import Reference

# The constraint also refuses lone surrogates, which no tokenizer accepts.
Content = Annotated[str, StringConstraints(min_length=1, max_length=100_000_000)]
IMAGE_URL_START = "data:image/"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageUrl(_Part):
    url: Content


class ImagePart(_Part):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(_Part):
    type: Literal["text"]
    text: Content


EmbeddingInput = Content | ImagePart | TextPart


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    input: EmbeddingInput | list[EmbeddingInput] = Field(
        description="texts, and images as data URLs", examples=["a red bird"]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="numbers in a vector; only as many as the encoder gives")
    user: str | None = Field(None, max_length=200, description="accepted for OpenAI's clients; not kept")


class EmbeddingView(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class TokenUsageView(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingView]
    model: str
    usage: TokenUsageView


class GenerationParams(BaseModel):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    max_new_tokens: int = Field(24, ge=1, le=256)
    num_beams: int = Field(1, ge=1, le=16, description="more than one: beam search, whose text comes as one piece")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from this much of the probability")
    temperature: float = Field(1.0, ge=0.001, le=10)
    seed: int = Field(0, ge=0, lt=2**31)
    stream: bool = Field(False, description="send pieces as server-sent events while they are written")


class CaptionRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise. Image i is drawn with ``seed`` + i."""

    images: list[Content] = Field(description="images as data URLs")
    prompt: str = Field("", max_length=10_000, description="text that the caption continues")
    context: str = Field("", max_length=10_000, description="text before the image")


class CaptionView(BaseModel):
    index: int
    caption: str


class CaptionResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[CaptionView]


class DocumentImage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: Content = Field(description="an image as a data URL")


class ContinuationRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    document: list[Content | DocumentImage] = Field(
        description="texts and images in reading order", examples=[["A red"]]
    )


class ContinuationResponse(BaseModel):
    object: Literal["continuation"] = "continuation"
    model: str
    text: str


class AttentionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    images: list[Content] = Field(description="images as data URLs")
    heads: bool = Field(True, description="also the weights of each head")


class AttentionView(BaseModel):
    """Rows of patches from the top, each from the left; all weights of a head sum to 1."""

    index: int
    grid: list[int] = Field(description="rows and columns of patches")
    box: list[float] = Field(description="the part of the image that is seen: left, top, right, bottom, 0 to 1")
    mean: list[list[float]] = Field(description="mean of the heads")
    heads: list[list[list[float]]] | None = None


class AttentionResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[AttentionView]
