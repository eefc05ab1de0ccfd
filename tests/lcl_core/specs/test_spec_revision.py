"""The revision of the specs is raised whenever their fields change: workers of an older version rely on it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lcl_core.specs.parsing import SPEC_DIGEST, SPEC_REVISION, SPECS

_WORDS = ("title", "description")


def without_words(schema: Any) -> Any:
    """A JSON schema without its texts for people. A field may have the name of one; its schema is an object."""
    if isinstance(schema, list):
        return [without_words(each) for each in schema]
    if isinstance(schema, dict):
        kept = {name: value for name, value in schema.items() if name not in _WORDS or not isinstance(value, str)}
        return {name: without_words(value) for name, value in kept.items()}
    return schema


def test_a_change_of_the_specs_raises_their_revision() -> None:
    schemas = {kind: without_words(spec.model_json_schema()) for kind, spec in SPECS.items()}
    digest = hashlib.sha256(json.dumps(schemas, sort_keys=True).encode()).hexdigest()
    assert digest == SPEC_DIGEST, (
        f"the specs have changed: raise SPEC_REVISION in lcl_core/specs/parsing.py to {SPEC_REVISION + 1}, so that "
        "workers of the previous version do not claim runs with fields that they do not know, "
        f"and set SPEC_DIGEST there to {digest}"
    )


def test_only_a_changed_field_counts() -> None:
    schema = {"description": "old", "properties": {"description": {"type": "string", "title": "Old"}}}
    assert without_words(schema) == {"properties": {"description": {"type": "string"}}}
