"""What a training costs, from sizes and counts alone: operations, parameters, memory, disk. Knows no torch.

Objectives, trainer, studies and forecasts count with the same formulas, and tests hold these against the real model.
"""
