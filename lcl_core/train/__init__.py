"""Pre-training: the step, the optimiser, checkpoints, and ``python -m lcl_core.train RUN_DIR``."""
