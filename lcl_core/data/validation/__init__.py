"""Examining a corpus: read once, in parallel; what it holds, what is wrong with it, and where."""

from lcl_core.data.validation.findings import Finding
from lcl_core.data.validation.limits import Limits
from lcl_core.data.validation.report import Report
from lcl_core.data.validation.validate import validate

__all__ = ["Finding", "Limits", "Report", "validate"]
