"""Evaluation tasks, one file a task; ``lcl_core.evaluation.evaluate.TASKS`` lists them."""
