"""Classification without training: classes are described in words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lcl_core.specs.base import Name, Spec

Template = Annotated[str, Field(pattern=r"\{\}", max_length=1000)]


class ZeroShotSpec(Spec):
    """Each picture takes the class whose descriptions lie nearest (CLIP, arXiv 2103.00020, section 3.1.4)."""

    labels: tuple[Name, ...] = Field(("subgroup",), min_length=1, description="keys of the corpus's labels to name")
    prompts: Literal["plain", "imagenet"] = Field(
        "plain", description="texts that describe a class: a few plain ones, or the 80 that open_clip holds"
    )
    templates: tuple[Template, ...] = Field((), description="in place of prompts: texts with {} for the class's name")
    names: Literal["labels", "imagenet"] = Field(
        "labels",
        description="what classes are called: the words of their labels, or open_clip's for ImageNet's synsets",
    )
    class_names: dict[str, str] = Field({}, description="names of some labels, before any other rule")
