"""Export formats: an encoder of ours, rewritten for other libraries. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.files import read_json_object
from lcl_core.encoders.registry import CONFIG, detect_encoder
from lcl_core.specs.vision import DEFAULT_TOWER

EXPORT_REFUSED = 2  # exit status of ``python -m lcl_core.encoders export``: the export is impossible


@dataclass(frozen=True)
class ExportFormat:
    """A format of another library, written by the module of its name: ``write(directory, target)``.

    Attributes:
        carries: for people, what the format holds.
        lacks: what it has no place for, by the kind of vision tower that it can therefore not hold.
    """

    carries: str
    lacks: Mapping[str, str] = field(default_factory=dict)


FORMATS = {
    "huggingface": ExportFormat("both towers for transformers, with the code that computes them"),
    "timm": ExportFormat(
        "the vision tower and its patch tokens or feature map",
        {"resnet": "ResNet without pooling after its stem"},
    ),
    "onnx": ExportFormat("both towers up to L2-normalised vectors, for any ONNX runtime"),
}


def export(name: str, directory: Path, target: Path) -> None:
    """Write the encoder of ``directory`` in a format of others into ``target``, which is new or empty."""
    check_exportable(name, directory)
    check_encoder(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("the target is not empty; name a new directory", file=target)
    writer = import_module(f"{__package__}.{name}")
    target.mkdir(parents=True, exist_ok=True)
    writer.write(directory, target)


def check_exportable(name: str, directory: Path) -> None:
    """Check what can be checked without reading weights. Raises: UserError as :func:`export`."""
    if name not in FORMATS:
        raise UserError(f"the formats are {', '.join(FORMATS)}", code="unsupported", field="format")
    found = detect_encoder(directory)
    if found.kind != "lcl":
        raise UserError(
            f"this is an encoder of {found.kind}'s own, and only those of ours are rewritten in other formats; "
            "take it as it is, with format=lcl",
            code="unsupported", field="format",
        )  # fmt: skip
    tower = str(read_json_object(directory / CONFIG).get("vision", DEFAULT_TOWER)).partition(":")[0]
    if missing := FORMATS[name].lacks.get(tower):
        raise UserError(
            f"{name} cannot hold the vision tower {tower}: it has no {missing}; take format=huggingface or onnx",
            code="unsupported", field="format",
        )  # fmt: skip
