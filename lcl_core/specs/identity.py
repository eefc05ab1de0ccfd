"""When two specs ask for the same thing."""

from __future__ import annotations

import hashlib
import json

from lcl_core.specs.parsing import AnySpec


def spec_hash(kind: str, spec: AnySpec) -> str:
    """Hex digest of everything that a spec says, defaults too; by which preset it came to say so does not count."""
    fields = spec.model_dump(mode="json", exclude={"preset"})
    return hashlib.sha256(json.dumps({"kind": kind, "spec": fields}, sort_keys=True).encode()).hexdigest()
