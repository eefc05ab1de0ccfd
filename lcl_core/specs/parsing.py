"""Validation of a spec from JSON: its hash, and messages that name the field, what it allows and the nearest name."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lcl_core.common.errors import NotFound, UserError, suggestion
from lcl_core.common.paths import NAME_PATTERN, NAME_RULE
from lcl_core.jobs import JOBS
from lcl_core.specs.base import PRINTABLE, RUN_ID_PATTERN, TAG_PATTERN, Spec
from lcl_core.specs.corpus_jobs import ConvertSpec, IndexSpec, MatchSpec, ValidateSpec
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.specs.vision import TOWER_PATTERN

AnySpec = PretrainSpec | EvaluateSpec | IndexSpec | ValidateSpec | ConvertSpec | MatchSpec
SPECS: dict[str, type[AnySpec]] = {name: kind.spec_class() for name, kind in JOBS.items()}
# what a form shows of each kind: its title, and its main fields by dotted path with their titles
KIND_LABELS = {name: kind.label for name, kind in JOBS.items()}
MAIN_FIELDS = {name: kind.main_fields for name, kind in JOBS.items()}

ERRORS_WITHOUT_VALUE = ("missing", "value_error", "extra_forbidden")  # errors whose message needs no value

AnyModel = TypeVar("AnyModel", bound=Spec)


def parse_spec(kind: str, value: Any) -> AnySpec:
    """Validate ``value`` as a spec of ``kind``."""
    if kind not in SPECS:
        message = f"kind {kind!r} is not known; choose from {', '.join(SPECS)}"
        raise NotFound(message, field="kind")
    return parse_as(SPECS[kind], value)


def parse_as(model: type[AnyModel], value: Any) -> AnyModel:
    """Validate ``value`` as ``model``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first, path = main_error(error.errors(include_url=False), value)
        field = ".".join(map(str, path)) or None
        got = "" if first["type"] in ERRORS_WITHOUT_VALUE else f" (got {repr(first['input'])[:80]})"
        raise UserError(
            f"{field or 'spec'}: {describe_error(first, model)}{got}", code="bad_spec", field=field
        ) from None


def nodes_of(spec: AnySpec) -> int:
    """Workers that the run needs at once."""
    return spec.engine.nodes if isinstance(spec, PretrainSpec) else 1


def gpus_of(spec: AnySpec) -> int:
    """GPUs that each worker of the run leases to it where it runs on GPUs: one for each process."""
    return spec.engine.processes if isinstance(spec, PretrainSpec) else 1


def spec_hash(kind: str, spec: AnySpec) -> str:
    """Hex digest of all fields of a spec, with defaults: equal for equal work.

    Leaves out the name of the preset, the minutes between checkpoints and the number of loader processes, which do not
    change the result.
    """
    excluded: Any = {"preset": True, "checkpoint_minutes": True, "data": {"workers"}}
    fields = spec.model_dump(mode="json", exclude=excluded)
    return hashlib.sha256(json.dumps({"kind": kind, "spec": fields}, sort_keys=True).encode()).hexdigest()


# what a text must be; the message for another pattern shows it
RULES = {
    NAME_PATTERN: NAME_RULE,
    TAG_PATTERN: "a tag starts with a letter or digit and holds letters, digits and . _ : / = - only",
    RUN_ID_PATTERN: "the id of a run starts with run_, as lcl runs list shows it",
    TOWER_PATTERN: "choose from vit, resnet, and timm: with a model of timm, such as timm:resnet18",
    PRINTABLE: "it may not be empty, and holds no control characters or marks that turn the direction of writing",
    r"^[^\x00-\x1f\x7f]*$": "it may hold no control characters",
    r"^[a-z_]+(\.([a-z_]+|[0-9]+))*$": "a field is named by its dotted path, such as optimizer.lr",
    r"\{\}": "a template holds {} where the name of the class goes",
}


def describe_error(error: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """An item of ``ValidationError.errors()`` as one clause; ``model``: the validated one, for the names of fields."""
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "must")
    message = message.replace("a valid integer", "a whole number").replace("a valid ", "a ")
    message = message.partition(", unable to ")[0]
    match error["type"]:
        case "model_type":
            return "must be an object, with named fields"
        case "extra_forbidden":
            return "there is no such field" + ("" if model is None else _other_fields(error["loc"], model))
        case "missing":
            return "this field is required"
        case "string_pattern_mismatch":
            return RULES.get(error["ctx"]["pattern"], message)
    return message


def main_error(errors: Sequence[Mapping[str, Any]], value: Any) -> tuple[Mapping[str, Any], tuple[str | int, ...]]:
    """The error to report and where it is: the first, or of the members of a union the one that fits best."""
    paths = [(error, field_path(error, value)) for error in errors]
    first = paths[0][1]
    return max((pair for pair in paths if pair[1][: len(first)] == first), key=lambda pair: len(pair[1]))


def field_path(error: Mapping[str, Any], value: Any) -> tuple[str | int, ...]:
    """Where the error is in ``value``, without the names that pydantic adds for the members of a union."""
    path, node = list[str | int](), value
    for number, part in enumerate(error["loc"]):
        absent = number == len(error["loc"]) - 1 and error["type"] in ("missing", "extra_forbidden")
        if absent or isinstance(part, int) or (isinstance(node, dict) and part in node):
            path.append(part)
            node = node[part] if isinstance(node, dict | list | tuple) and not absent else None
    return tuple(path)


def _other_fields(location: Sequence[str | int], model: type[BaseModel]) -> str:
    models = {model}
    for part in location[:-1]:  # an index, or the tag of a union, stays at the same model
        fields = [each.model_fields[str(part)] for each in models if part in each.model_fields]
        models = {below for field in fields for below in _models_in(field.annotation)} or models
    names = sorted({name for each in models for name in each.model_fields})
    return suggestion(str(location[-1]), names) or f"; there are {', '.join(names)}"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation, inside unions, lists and dicts too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
