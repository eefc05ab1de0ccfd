"""From the JSON of a request to a checked spec, and what a spec refers to."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from lcl_core.errors import UserError
from lcl_core.specs.base import Spec
from lcl_core.specs.convert import ConvertSpec
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.index import IndexSpec
from lcl_core.specs.match import MatchSpec
from lcl_core.specs.messages import words_for
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.specs.validate import CorpusSpec, ValidateSpec

Kind = Literal["pretrain", "evaluate", "index", "validate", "convert", "match"]
AnySpec = PretrainSpec | EvaluateSpec | IndexSpec | ValidateSpec | ConvertSpec | MatchSpec
SPECS: dict[str, type[AnySpec]] = {
    "pretrain": PretrainSpec,
    "evaluate": EvaluateSpec,
    "index": IndexSpec,
    "validate": ValidateSpec,
    "convert": ConvertSpec,
    "match": MatchSpec,
}

VALUELESS = ("missing", "value_error", "extra_forbidden")  # errors that the value given says nothing about

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
        got = "" if first["type"] in VALUELESS else f" (got {_short(first['input'])})"
        raise UserError(f"{field or 'spec'}: {words_for(first, model)}{got}", code="bad_spec", field=field) from None


def datasets_of(spec: AnySpec) -> tuple[str, ...]:
    """Names of the datasets that a spec reads, each once."""
    return tuple(dict.fromkeys(dataset_fields(spec).values()))


def dataset_fields(spec: AnySpec) -> dict[str, str]:
    """Names of the datasets that a spec reads, by the dotted field that names each."""
    if isinstance(spec, PretrainSpec):
        return {f"data.sources.{place}.dataset": source.dataset for place, source in enumerate(spec.data.sources)}
    named = {} if spec.dataset is None else {"dataset": spec.dataset}
    return named | (spec.further_datasets() if isinstance(spec, EvaluateSpec) else {})


def encoders_of(spec: AnySpec) -> tuple[str, ...]:
    """Encoders that a spec starts from, each once; the first is the one that the run is about."""
    if isinstance(spec, EvaluateSpec):
        return tuple(dict.fromkeys((spec.encoder, *spec.further_encoders().values())))
    return (spec.encoder,) if isinstance(spec, IndexSpec | MatchSpec) else ()


def collections_of(spec: AnySpec) -> tuple[str, ...]:
    """Collections that a spec reads: the one that it adds to."""
    return (spec.collection,) if isinstance(spec, IndexSpec) and spec.mode == "add" else ()


def nodes_of(spec: AnySpec) -> int:
    """Workers that the run takes, all or none."""
    return spec.engine.nodes if isinstance(spec, PretrainSpec) else 1


def places_of(spec: AnySpec) -> dict[str, str]:
    """By field, the path or URL that a spec reads and the URL that it writes; all must lie in the data roots."""
    if isinstance(spec, EvaluateSpec):
        return spec.paths()
    named = {"path": spec.path} if isinstance(spec, CorpusSpec) else {}
    named |= {"to": spec.to} if isinstance(spec, ConvertSpec) else {}
    return {field: place for field, place in named.items() if place is not None}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
