"""Validation of a spec from JSON, its hash, and what it refers to."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import ValidationError

from lcl_core.common.errors import NotFound, UserError
from lcl_core.jobs import JOBS
from lcl_core.specs.base import Spec
from lcl_core.specs.corpus_jobs import ConvertSpec, CorpusSpec, IndexSpec, MatchSpec, ValidateSpec, WriteSpec
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.specs.validation_messages import describe_error, main_error

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
        raise NotFound(message, code="unknown_kind", field="kind")
    return parse_as(SPECS[kind], value)


def parse_as(model: type[AnyModel], value: Any) -> AnyModel:
    """Validate ``value`` as ``model``. Raises: UserError ``bad_spec`` with the dotted field and what it allows."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first, path = main_error(error.errors(include_url=False), model, value)
        field = ".".join(map(str, path)) or None
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
        references = {
            "model.init": spec.model.init,
            "model.vision_init": spec.model.vision_init,
            "objective.distill.encoder": None if distill is None else distill.encoder,
        }
        return {field: encoder for field, encoder in references.items() if encoder is not None}
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
    named: dict[str, str | None] = {}
    if isinstance(spec, PretrainSpec):
        named["tokenizer.path"] = spec.tokenizer.path
        if spec.model.text_init is not None and spec.model.text_init.startswith("/"):  # else it is a package's name
            named["model.text_init"] = spec.model.text_init
    if isinstance(spec, CorpusSpec):
        named["path"] = spec.path
    if isinstance(spec, WriteSpec):
        named["to"] = spec.to
    return {field: path for field, path in named.items() if path is not None}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def spec_hash(kind: str, spec: AnySpec) -> str:
    """Hex digest of all fields of a spec, with defaults: equal for equal work.

    Leaves out the name of the preset, the minutes between checkpoints, the number of loader processes and their memory
    for reading ahead, which do not change the result.
    """
    data = {"workers", "read_ahead_mb"}
    fields = spec.model_dump(mode="json", exclude={"preset": True, "checkpoint_minutes": True, "data": data})
    return hashlib.sha256(json.dumps({"kind": kind, "spec": fields}, sort_keys=True).encode()).hexdigest()
