"""Encoders that can be examined: the product's own, and those of ``lcl_core.interop``."""

from lcl_core.transfer.towers.registry import TOWERS, load_text_side, load_tower

__all__ = ["TOWERS", "load_text_side", "load_tower"]
