"""Parts of all specs: strictness, names, fractions, JSON values kept as they were sent, presets."""

from __future__ import annotations

import copy
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from lcl_core.common.paths import NAME_PATTERN


def _json_leaves(value: Any) -> Iterator[Any]:
    """Numbers, texts and constants of a JSON value, and the names in it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _json_leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _json_leaves(item)
    else:
        yield value


def _check_storable(value: Any) -> Any:
    """The value, if JSON and every database can hold it."""
    for leaf in _json_leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ValueError(f"{leaf} is not a finite number")
        if isinstance(leaf, str) and not leaf.isprintable():
            raise ValueError(f"{leaf[:40]!r} holds characters that cannot be printed")
    return value


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def check_texts(value: Any) -> Any:
    """The value, if all databases can store its texts and the names in it, whatever else they hold.

    PostgreSQL stores no NUL character, and no database half of a surrogate pair, which JSON can write as escapes.
    """
    for leaf in _json_leaves(value):
        if isinstance(leaf, str) and _UNSTORABLE.search(leaf):
            raise ValueError(f"{leaf[:40]!r} holds a NUL character, or half of a surrogate pair; leave it out")
    return value


JsonValue = Annotated[Any, AfterValidator(_check_storable)]
PartialSpec = Annotated[dict[str, Any], AfterValidator(_check_storable)]


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
TAG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}$"
Tag = Annotated[str, Field(pattern=TAG_PATTERN)]
Precision = Literal["auto", "fp32", "bf16"]  # of matrix products; auto: bf16 where the hardware has it
RUN_ID_PATTERN = r"^run_[0-9a-z]+$"
# No control characters: the database refuses NUL, names have one line, and bidirectional marks make one name look like
# another.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$"
# The id or name of an encoder. The name of a run refers to the encoder that it made: see ``slug``.
EncoderReference = Annotated[str, Field(min_length=1, max_length=100, pattern=PRINTABLE)]
# A label key, split or source, as a corpus writes it: columns of tables have names such as "Class Name".
CorpusWord = Annotated[str, Field(min_length=1, max_length=100, pattern=PRINTABLE)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def slug(text: str) -> str:
    """A Name made of a text for people: ``my-run`` of ``my run``. A Name stays as it is. Empty: nothing is left."""
    if re.fullmatch(NAME_PATTERN, text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:100]


class Spec(BaseModel):
    """Unknown fields are refused, and so are infinities, NaN, and texts that a database cannot store."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _texts_can_be_stored(cls, value: Any) -> Any:
        return check_texts(value)


@dataclass(frozen=True)
class References:
    """What a job reads, by the dotted field of its spec that names each."""

    datasets: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)
    collections: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)  # on the server, and URLs; read or written

    @property
    def further_encoders(self) -> dict[str, str]:
        """Those beside the one that the job is about."""
        return {field: encoder for field, encoder in self.encoders.items() if field != "encoder"}


class JobSpec(Spec):
    """The spec of a job, which a worker runs."""

    timeout_seconds: float | None = Field(None, gt=0, description="after which the run fails; none: no limit")

    def references(self) -> References:
        raise NotImplementedError


def presets(kind: str) -> dict[str, dict[str, Any]]:
    """Named starting points, kept as data in ``lcl_core/presets/KIND/*.json``; each may hold a ``description``."""
    return copy.deepcopy(_read_presets(kind))


@cache
def _read_presets(kind: str) -> dict[str, dict[str, Any]]:
    folder = resources.files("lcl_core") / "presets" / kind
    if not folder.is_dir():
        return {}
    found = {}
    for file in folder.iterdir():
        if file.name.endswith(".json"):
            preset = cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
            preset.pop("description", None)
            found[file.name.removesuffix(".json")] = preset
    return found


def apply_preset(kind: str, fields: Any) -> Any:
    """``fields`` over the preset that they name, if any."""
    if not isinstance(fields, dict) or not isinstance(fields.get("preset"), str):
        return fields  # anything else is rejected by the field
    known = _read_presets(kind)
    if fields["preset"] not in known:
        raise ValueError(f"preset {fields['preset']!r} is not known; choose from {', '.join(sorted(known))}")
    return merge_objects(copy.deepcopy(known[fields["preset"]]), fields)


def merge_objects(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the fields of ``over``, recursively in objects."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge_objects(result[key], value) if both else value
    return result
