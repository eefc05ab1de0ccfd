"""Validation of a spec from JSON, and its hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import ValidationError

from lcl_core.common.errors import NotFound, UserError
from lcl_core.jobs import JOBS
from lcl_core.specs.base import Spec
from lcl_core.specs.corpus_jobs import ConvertSpec, IndexSpec, MatchSpec, ValidateSpec
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
