"""When two specs ask for the same thing."""

from __future__ import annotations

import hashlib
import json

from lcl_core.specs.parsing import AnySpec


def spec_hash(kind: str, spec: AnySpec) -> str:
    """Hex digest of everything that a spec says, defaults too.

    By which preset it came to say so does not count, nor for how long at most a run goes without a checkpoint, which
    changes nothing of what comes of it.
    """
    fields = spec.model_dump(mode="json", exclude={"preset", "checkpoint_minutes"})
    return hashlib.sha256(json.dumps({"kind": kind, "spec": fields}, sort_keys=True).encode()).hexdigest()
