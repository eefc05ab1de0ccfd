"""Plots of a study, for documents: SVG or PNG, drawn by matplotlib when one is asked for."""

from lcl_core.studies.plots.drawing import KINDS, PLOTS, Material, draw

__all__ = ["KINDS", "PLOTS", "Material", "draw"]
