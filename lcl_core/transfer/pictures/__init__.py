"""Figures of an evaluation, made from its stored answers: confusion, learning curves, examples."""

from lcl_core.transfer.pictures.studio import draw_figures

__all__ = ["draw_figures"]
