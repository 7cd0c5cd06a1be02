"""Generators as files for other programs: TorchScript, ``torch.export``, AOTInductor and ONNX."""

from cgcl_fast.exporting.checking import LIMIT, Difference, ExportError, largest_difference
from cgcl_fast.exporting.formats import FORMATS
from cgcl_fast.exporting.interface import METADATA, Interface, interface_of
from cgcl_fast.exporting.writing import export_generator

__all__ = [
    "FORMATS",
    "LIMIT",
    "METADATA",
    "Difference",
    "ExportError",
    "Interface",
    "export_generator",
    "interface_of",
    "largest_difference",
]
