"""From the JSON of a request to a checked spec, and what a spec refers to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from lcl_core.errors import UserError
from lcl_core.specs.convert import ConvertSpec
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.index import IndexSpec
from lcl_core.specs.match import MatchSpec
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


def parse_spec(kind: str, value: Any) -> AnySpec:
    """Validate ``value`` as a spec of ``kind``.

    Raises:
        UserError: ``unknown_kind``, or ``bad_spec`` with the dotted field and what it allows.
    """
    if kind not in SPECS:
        message = f"kind {kind!r} is not known; choose from {', '.join(SPECS)}"
        raise UserError(message, code="unknown_kind", field="kind")
    try:
        return SPECS[kind].model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        got = "" if first["type"] in ("missing", "value_error") else f" (got {_short(first['input'])})"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{field or 'spec'}: {message}{got}", code="bad_spec", field=field) from None


def datasets_of(spec: AnySpec) -> tuple[str, ...]:
    """Names of the datasets that a spec reads, each once."""
    if isinstance(spec, PretrainSpec):
        return tuple(dict.fromkeys(source.dataset for source in spec.data.sources))
    return () if spec.dataset is None else (spec.dataset,)


def encoders_of(spec: AnySpec) -> tuple[str, ...]:
    """Encoders that a spec starts from."""
    return (spec.encoder,) if isinstance(spec, EvaluateSpec | IndexSpec | MatchSpec) else ()


def path_of(spec: AnySpec) -> str | None:
    """The path on the server that a spec reads, which must lie in the data roots."""
    return spec.path if isinstance(spec, CorpusSpec) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
