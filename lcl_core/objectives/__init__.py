"""Pre-training objectives: one small file each, one interface (``objective.py``), one registry."""
