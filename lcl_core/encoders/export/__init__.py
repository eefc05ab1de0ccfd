"""Export of our encoders to transformers, timm and ONNX. Importing this loads no torch."""

from lcl_core.encoders.export.base import FORMATS, ExportFormat, check_exportable, export

__all__ = ["FORMATS", "ExportFormat", "check_exportable", "export"]
