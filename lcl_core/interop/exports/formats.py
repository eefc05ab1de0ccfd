"""Which formats there are, what each carries, and who writes it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lcl_core.errors import UserError
from lcl_core.interop.encoder_schema import check_encoder
from lcl_core.interop.origins import recognise


@dataclass(frozen=True)
class Format:
    """What an encoder of ours can leave as.

    Attributes:
        writer: module of this package; its ``write(directory, target)`` makes the files.
        carries: for people, what arrives there.
    """

    writer: str
    carries: str


FORMATS = {
    "huggingface": Format("huggingface", "both towers for transformers, with the code that computes them"),
    "openclip": Format(
        "openclip", "nothing: OpenCLIP has no place for the attentive pooling, and the refusal says why"
    ),
    "timm": Format("timm_vit", "the vision tower and its patch tokens, as a VisionTransformer"),
    "onnx": Format("onnx_files", "both towers up to L2-normalised vectors, for any ONNX runtime"),
}


def export(name: str, directory: Path, target: Path) -> None:
    """Write the encoder of ``directory`` in a format of others into ``target``, which is new or empty.

    Raises:
        UserError: ``not_expressible`` (field ``format``) when the format cannot hold it, ``bad_encoder`` when there is
            none, ``bad_target`` when something lies in ``target``, ``missing_extra`` when a library is missing.
    """
    check(name, directory)
    check_encoder(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("something lies there already; name a new directory", code="bad_target", file=target)
    writer = import_module(f"{__package__}.{FORMATS[name].writer}")
    target.mkdir(parents=True, exist_ok=True)
    writer.write(directory, target)


def check(name: str, directory: Path) -> None:
    """What can be said without reading weights. Raises: UserError as :func:`export`."""
    if name not in FORMATS:
        raise UserError(f"the formats are {', '.join(FORMATS)}", code="not_expressible", field="format")
    origin = recognise(directory)
    if origin.kind != "lcl":
        raise UserError(
            f"this is an encoder of {origin.kind}'s own, and only those of ours are rewritten in other formats; "
            "take it as it is, with format=lcl",
            code="not_expressible", field="format",
        )  # fmt: skip
    if name == "openclip":
        from lcl_core.interop.exports.openclip import refusal

        raise refusal()
