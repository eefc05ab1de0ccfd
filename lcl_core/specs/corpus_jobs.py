"""Specs of the jobs over a corpus: validate, convert, match, index."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lcl_core.common.paths import is_url
from lcl_core.specs.base import EncoderReference, Fraction, JobSpec, Name, Precision, References, Tag

LabelType = Literal["text", "number", "date", "set"]
RESERVED_LABELS = ("split", "source")  # fields of an image that a filter asks for as it asks for labels
REMOTE_FORMATS = ("mmc4", "obelics", "webdataset", "table")  # whose files can be read at a URL, one by one


class CorpusSpec(JobSpec):
    """A corpus: by its registered name, or by path and format."""

    dataset: Name | None = Field(None, description="name of a registered dataset")
    path: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="or a file or folder on the server, or a URL of shards or (with format) of files, inside its data "
        "roots",
    )
    format: str = Field(
        "auto", max_length=40, description="format of what lies at path; auto: recognised, and shards at a URL"
    )
    options: dict[str, Any] = Field({}, description="options of the format's reader")

    def references(self) -> References:
        return References(
            datasets={} if self.dataset is None else {"dataset": self.dataset},
            paths={} if self.path is None else {"path": self.path},
        )

    @model_validator(mode="after")
    def _one_of_two(self) -> CorpusSpec:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("name either a dataset or a path")
        foreign = self.format != "auto" or bool(self.options)
        if self.dataset is not None and foreign:
            raise ValueError("format and options are for a path; a registered dataset has its own form")
        if self.path is not None and is_url(self.path):
            if self.format != "auto" and self.format not in REMOTE_FORMATS:
                known = ", ".join(REMOTE_FORMATS)
                raise ValueError(f"at a URL there are shards (format auto) or files of {known}; copy others to disk")
            if self.options and self.format == "auto":
                raise ValueError("options are for files of a format; name the format, or leave options out for shards")
        return self


class ValidateSpec(CorpusSpec):
    """Read a corpus once, in parallel: counts, distributions, and a list of its problems."""

    workers: int | None = Field(None, ge=0, le=256, description="processes that decode; none: one a core, at most 16")
    tokens: bool = Field(True, description="measure texts in CLIP tokens; otherwise in words, which is faster")
    similarity_threshold: float = Field(0.24, ge=-1, le=1, description="images matched below this are not usable")


class WriteSpec(CorpusSpec):
    """A corpus, and the dataset that is made of it."""

    name: Name = Field(..., description="name of the dataset to make; one that exists gets a new version")
    shard_megabytes: int = Field(256, ge=1, le=16_384, description="a shard is closed when it is larger than this")
    to: str | None = Field(
        None, max_length=4096, description="URL below a data root that gets the shards; none: the service's own disk"
    )

    def references(self) -> References:
        found = super().references()
        return found if self.to is None else replace(found, paths=found.paths | {"to": self.to})

    @field_validator("to")
    @classmethod
    def _to_is_a_url(cls, to: str | None) -> str | None:
        if to is not None and not is_url(to):
            raise ValueError("shards go to a URL such as s3://bucket/prefix; leave it out to keep them on disk")
        return to and to.rstrip("/")


class ConvertSpec(WriteSpec):
    """Write a corpus as tar shards with an index, and register them as a dataset."""

    processes: int = Field(
        1, ge=1, le=256, description="processes that read and decode; the shards do not depend on their number"
    )
    hold_out: Fraction = Field(
        0.0,
        description="share of the images that become an exam, each with its passage as a captioned image of split "
        "test, and half as many of split val; whole documents are held out, with all that share an image or texts",
    )
    only_tags: tuple[Tag, ...] | None = Field(
        None,
        max_length=32,
        description="only documents and captioned images of the dataset that have any of these tags; none: all",
    )
    without_tags: tuple[Tag, ...] | None = Field(
        None,
        max_length=32,
        description="leave out documents and captioned images of the dataset that have any of these tags",
    )

    @model_validator(mode="after")
    def _tags_are_of_a_dataset(self) -> Self:
        if self.dataset is None and (self.only_tags or self.without_tags):
            raise ValueError("only a registered dataset has tags: name one, or leave out only_tags and without_tags")
        return self


class MatchSpec(WriteSpec):
    """Assign each image of a document to a sentence by an encoder, and register the result as a dataset."""

    encoder: EncoderReference = Field(..., description="id or name of a registered encoder")
    precision: Precision = Field("auto", description="of the encoder; auto: bf16 where the hardware has it")

    def references(self) -> References:
        return replace(super().references(), encoders={"encoder": self.encoder})


class IndexSpec(JobSpec):
    """Embed a corpus's images and captions into a collection that can be searched."""

    encoder: EncoderReference = Field(..., description="id or name of a registered encoder")
    dataset: Name | None = Field(
        "sample",
        description="name of a registered dataset with captioned images, or else documents, whose images get the text "
        "that each belongs to; none, with mode add: nothing more",
    )
    splits: tuple[Name, ...] | None = Field(None, description="only these splits; none: all")
    collection: Name = Field(..., description="name of the collection to make, or of one that exists: then state mode")
    mode: Literal["replace", "add"] = Field(
        "replace",
        description="of a name that exists, which needs it: replace deletes the older collection; add keeps its items, "
        "embedded once and not again, takes in what was added and removed since, and adds what the dataset has besides",
    )
    index: Literal["auto", "files", "qdrant"] = Field(
        "auto",
        description="search index: files, in the collection's own files by the api; qdrant, a Qdrant server; "
        "auto: what it has been, in mode add, else files",
    )
    label_types: dict[Annotated[str, Field(min_length=1, max_length=100)], LabelType] = Field(
        {},
        max_length=100,
        description="types of labels: text, number, date or set; others are number, date (2020-01-31) or set (a JSON "
        "list of texts) where all their values are, else text; mode add keeps those that were given before",
    )
    batch_size: int = Field(256, ge=1, le=4096, description="images encoded at once")
    precision: Precision = Field("auto", description="of the encoder; auto: bf16 where the hardware has it")
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="that read and embed, each with an encoder of its own; on a processor, one thread each",
    )

    def references(self) -> References:
        return References(
            datasets={} if self.dataset is None else {"dataset": self.dataset},
            encoders={"encoder": self.encoder},
            collections={"collection": self.collection} if self.mode == "add" else {},
        )

    @field_validator("label_types")
    @classmethod
    def _reserved_are_texts(cls, types: dict[str, LabelType]) -> dict[str, LabelType]:
        if taken := next((name for name in RESERVED_LABELS if name in types), None):
            raise ValueError(f"{taken} is always text; leave it out")
        return types

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.dataset is None and self.mode == "replace":
            raise ValueError("without a dataset there is nothing to make a collection of; name one, or set mode to add")
        return self
