"""Pre-training: the step, the optimiser, checkpoints, and ``python -m lcl_core.train RUN_DIR``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcl_core.train.optimizer import build_optimizer, learning_rate

__all__ = ["build_optimizer", "learning_rate"]


def __getattr__(name: str) -> Any:
    """Imported on first access: a process that only starts the ranks of a run need not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lcl_core.train import optimizer

    return getattr(optimizer, name)
