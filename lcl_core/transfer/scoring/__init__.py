"""From stored answers to the table's rows. No model is needed, so scores can be made again at any time."""

from lcl_core.transfer.scoring.measure import Measure
from lcl_core.transfer.scoring.rows import Row, score

__all__ = ["Measure", "Row", "score"]
