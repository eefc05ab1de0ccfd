"""The environment of a run's process: ours, without secrets and without another launcher's traces.

The one exception are credentials of object storage, for protocols that the data roots name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lcl_core.environment import without_secrets
from lcl_core.runs.store import Claim


def scrubbed(environment: Mapping[str, str], protocols: Collection[str] = ()) -> dict[str, str]:
    """What a run's process may see, plus what tells it that a supervisor watches.

    Args:
        protocols: of the URLs that a run may read and write, such as ``s3``.
    """
    return {**without_secrets(environment, protocols), "LCL_SUPERVISED": "1", "PYTHONUNBUFFERED": "1"}


def devices_of(claim: Claim) -> dict[str, str]:
    """A run that asked for the processor sees no GPU: another run may need its memory."""
    return {"CUDA_VISIBLE_DEVICES": ""} if claim.resource == "cpu" else {}
