"""Pre-training: the step, the optimiser, checkpoints, and ``python -m lcl_core.train RUN_DIR``."""

from lcl_core.train.optimizer import build_optimizer, learning_rate

__all__ = ["build_optimizer", "learning_rate"]
