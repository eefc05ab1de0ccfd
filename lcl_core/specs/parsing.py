"""Validation of a spec from JSON, messages for its errors, its hash, and what it refers to."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, ValidationError

from lcl_core.common.errors import UserError
from lcl_core.jobs import JOBS
from lcl_core.specs.base import Spec
from lcl_core.specs.corpus_jobs import ConvertSpec, CorpusSpec, IndexSpec, MatchSpec, ValidateSpec
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.pretrain import RUN_ID_PATTERN, PretrainSpec
from lcl_core.specs.vision import TOWER_PATTERN

MAX_LISTED_FIELDS = 30  # names of fields that a message shows at most
PRINTABLE = "it may hold no control characters, line breaks or characters that turn the direction of writing"
CONTROL = "it may hold no control characters"
# Meaning of the fields' patterns; others are shown as they are.
PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": (
        "a name starts with a letter or digit and holds letters, digits, . _ and - only, 100 characters at most"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}$": (
        "a tag starts with a letter or digit and holds letters, digits and . _ : / = - only, 100 characters at most"
    ),
    r"^[A-Za-z_][A-Za-z0-9_]{0,99}$": (
        "the name of a Python package starts with a letter or _ and holds letters, digits and _ only"
    ),
    RUN_ID_PATTERN: "the id of a run starts with run_, as lcl runs list shows it",
    TOWER_PATTERN: "choose from vit, hybrid, convnext, and timm: with the name of a model, such as timm:resnet18",
    r"\{\}": "a template holds {} where the name of the class goes",
    r"^[a-z_]+(\.([a-z_]+|[0-9]+))*$": "a field is named by its dotted path, such as optimizer.lr",
    r"^[^\x00-\x1f\x7f]*$": CONTROL,
    r"^[^\x00-\x1f\x7f|]{1,60}$": "it holds 1 to 60 characters, no | and no control characters",
    # of api.schemas.base: what no screen shows, or shows in another order
    r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$": f"it may not be empty, and {PRINTABLE}",
    r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$": PRINTABLE,
    r"^[^\x00]+$": "it may not be empty, and hold no NUL character",
    r"^[\x21-\x7e]+$": "it holds printable ASCII characters only, without blanks",
}


def describe_error(error: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """An item of ``ValidationError.errors()`` as one clause.

    Args:
        model: the validated model, for the names of fields. ``error["loc"]`` may begin with the part of the request.
    """
    if error["type"] == "extra_forbidden" and model is not None:
        return _unknown_field(error["loc"], model)
    if error["type"] == "string_pattern_mismatch":
        pattern = error.get("ctx", {}).get("pattern", "")
        return PATTERNS.get(pattern) or f"it must match the pattern {pattern}"
    return str(error["msg"]).removeprefix("Value error, ")


def _unknown_field(location: Iterable[str | int], model: type[BaseModel]) -> str:
    *way, last = location
    models = {model}
    for part in way:
        models = _models_below(models, part) or models  # an index, or the tag of a union, stays at the same model
    fields = sorted({field.alias or name for each in models for name, field in each.model_fields.items()})
    near = difflib.get_close_matches(str(last), fields, n=1)
    if near:
        return f"there is no such field; did you mean {near[0]!r}?"
    shown = ", ".join(fields[:MAX_LISTED_FIELDS]) + (", …" if len(fields) > MAX_LISTED_FIELDS else "")
    return f"there is no such field; there are {shown}"


def _models_below(models: set[type[BaseModel]], part: str | int) -> set[type[BaseModel]]:
    """Models of a field's value; for the tag of a union the tagged model."""
    tagged = {model for model in models if len(models) > 1 and part in (model.__name__, *_tags(model))}
    found = {
        below
        for model in models
        if isinstance(part, str) and part in model.model_fields
        for below in _models_in(model.model_fields[part].annotation)
    }
    return found or tagged


def _tags(model: type[BaseModel]) -> Iterator[Any]:
    """Tags of the model in a discriminated union: the values of its literals."""
    for field in model.model_fields.values():
        if typing.get_origin(field.annotation) is typing.Literal:
            yield from typing.get_args(field.annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation, inside unions, lists and dicts too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) is Annotated:
        yield from _models_in(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (Union, types.UnionType, list, dict, tuple):
        for argument in typing.get_args(annotation):
            yield from _models_in(argument)


AnySpec = PretrainSpec | EvaluateSpec | IndexSpec | ValidateSpec | ConvertSpec | MatchSpec
SPECS: dict[str, type[AnySpec]] = {name: kind.spec_class() for name, kind in JOBS.items()}
# what a form shows of each kind: its title, and its main fields by dotted path with their titles
KIND_LABELS = {name: kind.label for name, kind in JOBS.items()}
MAIN_FIELDS = {name: kind.main_fields for name, kind in JOBS.items()}

ERRORS_WITHOUT_VALUE = ("missing", "value_error", "extra_forbidden")  # errors whose message needs no value

AnyModel = TypeVar("AnyModel", bound=Spec)


def parse_spec(kind: str, value: Any) -> AnySpec:
    """Validate ``value`` as a spec of ``kind``.

    Raises:
        UserError: ``unknown_kind``, or ``bad_spec`` with the dotted field and what it allows.
    """
    if kind not in SPECS:
        message = f"kind {kind!r} is not known; choose from {', '.join(SPECS)}"
        raise UserError(message, code="unknown_kind", field="kind")
    return parse_as(SPECS[kind], value)


def parse_as(model: type[AnyModel], value: Any) -> AnyModel:
    """Validate ``value`` as ``model``. Raises: UserError ``bad_spec`` with the dotted field and what it allows."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        got = "" if first["type"] in ERRORS_WITHOUT_VALUE else f" (got {_short(first['input'])})"
        raise UserError(
            f"{field or 'spec'}: {describe_error(first, model)}{got}", code="bad_spec", field=field
        ) from None


def datasets_of(spec: AnySpec) -> tuple[str, ...]:
    """Names of the datasets that a spec reads, each once."""
    return tuple(dict.fromkeys(dataset_fields(spec).values()))


def dataset_fields(spec: AnySpec) -> dict[str, str]:
    """Names of the datasets that a spec reads, by the dotted field that names each."""
    if isinstance(spec, PretrainSpec):
        named = {f"data.sources.{index}.dataset": source.dataset for index, source in enumerate(spec.data.sources)}
        return named | ({} if spec.monitor is None else {"monitor.dataset": spec.monitor.dataset})
    named = {} if spec.dataset is None else {"dataset": spec.dataset}
    return named | (spec.further_datasets() if isinstance(spec, EvaluateSpec) else {})


def encoders_of(spec: AnySpec) -> tuple[str, ...]:
    """Encoders that a spec uses, each once, its subject first."""
    return tuple(dict.fromkeys(encoder_fields(spec).values()))


def encoder_fields(spec: AnySpec) -> dict[str, str]:
    """Ids or names of the encoders that a spec uses, by the dotted field that names each."""
    if isinstance(spec, PretrainSpec):
        distill = spec.objective.distill
        named = {} if spec.model.init is None else {"model.init": spec.model.init}
        return named if distill is None else named | {"objective.distill.encoder": distill.encoder}
    named = {"encoder": spec.encoder} if isinstance(spec, EvaluateSpec | IndexSpec | MatchSpec) else {}
    return named | (spec.further_encoders() if isinstance(spec, EvaluateSpec) else {})


def collections_of(spec: AnySpec) -> tuple[str, ...]:
    """Collections that a spec reads: the one to which it adds."""
    return (spec.collection,) if isinstance(spec, IndexSpec) and spec.mode == "add" else ()


def nodes_of(spec: AnySpec) -> int:
    """Workers that the run needs at once."""
    return spec.engine.nodes if isinstance(spec, PretrainSpec) else 1


def gpus_of(spec: AnySpec) -> int:
    """GPUs that each worker of the run leases to it where it runs on GPUs: one for each process."""
    return spec.engine.processes if isinstance(spec, PretrainSpec) else 1


def data_paths(spec: AnySpec) -> dict[str, str]:
    """Paths and URLs that a spec reads or writes, by field; all must lie in the data roots."""
    if isinstance(spec, EvaluateSpec):
        return spec.paths()
    if isinstance(spec, PretrainSpec):
        named = {"tokenizer.path": spec.tokenizer.path, "model.text_init": spec.model.text_init}
        return {field: path for field, path in named.items() if path is not None and path.startswith("/")}
    named = {"path": spec.path} if isinstance(spec, CorpusSpec) else {}
    named |= {"to": spec.to} if isinstance(spec, ConvertSpec) else {}
    return {field: path for field, path in named.items() if path is not None}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def spec_hash(kind: str, spec: AnySpec) -> str:
    """Hex digest of all fields of a spec, with defaults: equal for equal work.

    Leaves out the name of the preset, the minutes between checkpoints and the number of loader processes, which do
    not change the result.
    """
    fields = spec.model_dump(mode="json", exclude={"preset": True, "checkpoint_minutes": True, "data": {"workers"}})
    return hashlib.sha256(json.dumps({"kind": kind, "spec": fields}, sort_keys=True).encode()).hexdigest()
