"""Environment of child processes that read untrusted input: no secrets, no launcher variables, no model hub. Their end
with their parent, and a clock that goes on while the machine sleeps.

Uses the standard library alone, because the sandbox imports it before its limits apply.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping, MutableMapping

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
}


def forbid_downloads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch model hubs off. Entry points of the service call it before anything imports transformers."""
    environment.update(OFFLINE)


# with these a process would believe that it is a rank of another distributed job
_DISTRIBUTED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"}
_DISTRIBUTED |= {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}
_DISTRIBUTED |= {"SPT_NOENV", "PYTHONBREAKPOINT"}  # of Ray's workers; a breakpoint would wait for Ray's debugger
_DISTRIBUTED_PREFIXES = ("RAY_", "ROLE_", "SLURM", "TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "MPI_")
_SECRET_WORDS = {"KEY", "KEYS", "SECRET", "SECRETS", "TOKEN", "TOKENS", "PASSWORD", "PASSWD", "CREDENTIAL"}
_SECRET_WORDS |= {"CREDENTIALS", "PGPASSWORD", "PGPASSFILE", "DSN"}
_URLS_WITH_PASSWORDS = {"LCL_DATABASE_URL", "LCL_BROKER_URL", "DATABASE_URL", "REDIS_URL"}  # may hold a password
# prefixes of a protocol's credentials, besides fsspec's own FSSPEC_{PROTOCOL}_*
_STORAGE_PREFIXES = {
    **dict.fromkeys(("s3", "s3a"), ("AWS_",)),
    **dict.fromkeys(("gs", "gcs"), ("GOOGLE_", "GCS_")),
    **dict.fromkeys(("abfs", "abfss", "az"), ("AZURE_",)),
}


def without_secrets(environment: Mapping[str, str], protocols: Collection[str] = ()) -> dict[str, str]:
    """``environment`` without secrets and launcher variables, and with model hubs off.

    Args:
        protocols: of object storage whose credentials stay, such as ``s3``.
    """
    return {name: value for name, value in environment.items() if not _is_removed(name, protocols)} | OFFLINE


def _is_removed(name: str, protocols: Collection[str]) -> bool:
    upper = name.upper()
    if any(upper.startswith((*_STORAGE_PREFIXES.get(each, ()), f"FSSPEC_{each.upper()}_")) for each in protocols):
        return False
    return (
        upper in _DISTRIBUTED
        or upper in _URLS_WITH_PASSWORDS
        or upper.startswith(_DISTRIBUTED_PREFIXES)
        or not _SECRET_WORDS.isdisjoint(upper.split("_"))
    )


def exit_with_parent() -> None:
    """Start a thread that ends this process of ``multiprocessing`` when its parent has ended; none without a parent.

    Without it, a process whose parent was killed would wait for messages for ever, and keep what it holds: memory, the
    lock of a run's folder.
    """
    from multiprocessing import parent_process

    parent = parent_process()

    def exit_after_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    if parent is not None:
        threading.Thread(target=exit_after_parent, name="exit-with-parent", daemon=True).start()


def boot_time() -> float:
    """Seconds since the boot, those in which the machine slept included; nobody sets this clock."""
    # macOS has no CLOCK_BOOTTIME, its CLOCK_MONOTONIC does the same
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
