"""Cost of a pre-training run before it starts: FLOPs, parameters, memory, disk and time. Imports no torch, no database.

Objectives, trainer and studies count with the same formulas; tests compare these with the real model.
"""
