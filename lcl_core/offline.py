"""No hub is asked: what the libraries of models and data sets read from the environment when they are imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
}


def forbid_downloads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set, over what stands there. Entry points of the service call it before anything imports transformers.

    Whoever imports ``lcl_core`` in a script of their own decides for themselves.
    """
    environment.update(OFFLINE)
