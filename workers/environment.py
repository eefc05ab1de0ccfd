"""The environment of a run's process: ours, without secrets and without another launcher's traces."""

from __future__ import annotations

from collections.abc import Mapping

# a process that inherits these believes that it is one rank of somebody else's distributed job
_DISTRIBUTED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"}
_DISTRIBUTED |= {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}
_DISTRIBUTED_PREFIXES = ("ROLE_", "SLURM", "TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "MPI_")
_SECRET_WORDS = {"KEY", "KEYS", "SECRET", "SECRETS", "TOKEN", "TOKENS", "PASSWORD", "PASSWD", "CREDENTIAL"}
_SECRET_WORDS |= {"CREDENTIALS", "PGPASSWORD", "PGPASSFILE", "DSN"}
_ADDRESSES = {"LCL_DATABASE_URL", "LCL_BROKER_URL", "DATABASE_URL", "REDIS_URL"}  # may hold a password


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """What a run's process may see, plus what tells it that a supervisor watches."""
    kept = {name: value for name, value in environment.items() if not _withheld(name)}
    return {**kept, "LCL_SUPERVISED": "1", "PYTHONUNBUFFERED": "1"}


def _withheld(name: str) -> bool:
    upper = name.upper()
    return (
        upper in _DISTRIBUTED
        or upper in _ADDRESSES
        or upper.startswith(_DISTRIBUTED_PREFIXES)
        or not _SECRET_WORDS.isdisjoint(upper.split("_"))
    )
