"""Pre-training objectives: one small file each, one interface (``base.py``), one registry."""
