"""Inference: texts and images of a request, embeddings, generated texts, attention maps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from api.schemas.base import Reference, request_example

# The constraint also refuses lone surrogates, which no tokenizer accepts.
Content = Annotated[str, StringConstraints(min_length=1, max_length=100_000_000)]
IMAGE_URL_START = "data:image/"
EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mM8ISfHQApgYiARjGoY1TB0NAAATx8BJMixHB8"
    "AAAAASUVORK5CYII="
)
NO_TOKENS = (
    "lists of token numbers are not accepted, because each encoder has a tokenizer of its own; send the text itself"
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageUrl(_Part):
    url: Content = Field(description="an image as a data URL")
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="accepted for OpenAI's clients; changes nothing"
    )


class ImagePart(_Part):
    type: Literal["image_url"] = Field(description="kind of the part")
    image_url: ImageUrl


class TextPart(_Part):
    type: Literal["text"] = Field(description="kind of the part")
    text: Content = Field(description="the text")


EmbeddingInput = Content | ImagePart | TextPart
# Their number is a setting's, which is checked later: the first item that is wrong ends the check of the others.
EmbeddingInputs = Annotated[list[EmbeddingInput], Field(fail_fast=True)]
ImageUrls = Annotated[list[Content], Field(fail_fast=True)]


def _refuse_tokens(value: Any) -> Any:
    """Raises: ValueError for what OpenAI's API accepts beside texts: lists of tokens."""
    first = value[0] if isinstance(value, list) and value else None
    first = first[0] if isinstance(first, list) and first else first
    if isinstance(first, int) and not isinstance(first, bool):
        raise ValueError(NO_TOKENS)
    return value


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra=request_example(model="drawings-v5", input=["a red bird", EXAMPLE_IMAGE])
    )

    model: Reference = Field(description="id or name of an encoder")
    input: Annotated[EmbeddingInput | EmbeddingInputs, BeforeValidator(_refuse_tokens)] = Field(
        description="texts, and images as data URLs", examples=["a red bird"]
    )
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32")
    dimensions: int | None = Field(None, ge=1, description="numbers in a vector; only as many as the encoder gives")
    user: str | None = Field(None, max_length=200, description="accepted for OpenAI's clients; not kept")


class EmbeddingView(BaseModel):
    object: Literal["embedding"] = Field(description="kind of the object")
    index: int = Field(description="place of its input")
    embedding: list[float] | str = Field(description="the vector, as encoding_format says")


class TokenUsageView(BaseModel):
    prompt_tokens: int = Field(description="tokens that the encoder read")
    total_tokens: int = Field(description="the same")


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = Field(description="kind of the object")
    data: list[EmbeddingView] = Field(description="one vector per input, in order")
    model: str = Field(description="as in the request")
    usage: TokenUsageView


class ModelView(BaseModel):
    """An encoder as an entry of OpenAI's list of models."""

    id: str = Field(description="the name of the encoder, or its id where a newer encoder has the name")
    object: Literal["model"] = Field("model", description="kind of the object")
    created: int = Field(description="when it was registered, in seconds since 1970")
    owned_by: str = Field(description="who trained or imported it")
    encoder_id: str = Field(description="id of the encoder")


class ModelList(BaseModel):
    object: Literal["list"] = Field("list", description="kind of the object")
    data: list[ModelView] = Field(description="newest first")


class GenerationParams(BaseModel):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    max_new_tokens: int = Field(24, ge=1, le=256, description="greatest length of the text")
    num_beams: int = Field(1, ge=1, le=16, description="more than one: beam search, whose text comes as one piece")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from this much of the probability")
    temperature: float = Field(1.0, ge=0.001, le=10, description="of the sampling, with top_p")
    seed: int = Field(0, ge=0, lt=2**31, description="of the sampling, with top_p")
    stream: bool = Field(False, description="send pieces as server-sent events while they are written")


class CaptionRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise. Image i is drawn with ``seed`` + i."""

    model_config = ConfigDict(json_schema_extra=request_example(model="drawings-v5", images=[EXAMPLE_IMAGE]))

    images: ImageUrls = Field(description="images as data URLs")
    prompt: str = Field("", max_length=10_000, description="text that the caption continues")
    context: str = Field("", max_length=10_000, description="text before the image")


class CaptionView(BaseModel):
    index: int = Field(description="place of its image")
    caption: str = Field(description="the text")


class CaptionResponse(BaseModel):
    object: Literal["list"] = Field("list", description="kind of the object")
    model: str = Field(description="as in the request")
    data: list[CaptionView] = Field(description="one caption per image, in order")


class DocumentImage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: Content = Field(description="an image as a data URL")


class ContinuationRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(
        json_schema_extra=request_example(model="drawings-v5", document=["A page about", {"image": EXAMPLE_IMAGE}])
    )

    document: Annotated[list[Content | DocumentImage], Field(fail_fast=True)] = Field(
        description="texts and images in reading order", examples=[["A red"]]
    )


class ContinuationResponse(BaseModel):
    object: Literal["continuation"] = Field("continuation", description="kind of the object")
    model: str = Field(description="as in the request")
    text: str = Field(description="what follows the document")


class AttentionRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra=request_example(model="drawings-v5", images=[EXAMPLE_IMAGE], heads=False)
    )

    model: Reference = Field(description="id or name of an encoder")
    images: ImageUrls = Field(description="images as data URLs")
    heads: bool = Field(True, description="also the weights of each head")


class AttentionView(BaseModel):
    """Rows of patches from the top, each from the left; all weights of a head sum to 1."""

    index: int = Field(description="place of its image")
    grid: list[int] = Field(description="rows and columns of patches")
    box: list[float] = Field(description="the part of the image that is seen: left, top, right, bottom, 0 to 1")
    mean: list[list[float]] = Field(description="mean of the heads")
    heads: list[list[list[float]]] | None = Field(
        None, description="weights of each head, if the request asks for them"
    )


class AttentionResponse(BaseModel):
    object: Literal["list"] = Field(description="kind of the object")
    model: str = Field(description="as in the request")
    data: list[AttentionView] = Field(description="one map per image, in order")
