"""How a sentence encoder makes one vector of a text's tokens, as sentence-transformers saves it. Knows no torch.

``modules.json`` names the steps, ``1_Pooling/config.json`` the pooling, ``sentence_bert_config.json`` how much of a
text is read. A copy that the service keeps has no folders: there the pooling's file is ``pooling_config.json``. A copy
that an older version made lacks it, and keeps the mean that it was registered with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from lcl_core.encoders.detect import TEXTS, detect_encoder
from lcl_core.encoders.schemas.base import (
    ShortText,
    data_files,
    read_json,
    read_json_object,
    schema_error,
    validate_model,
)
from lcl_core.encoders.schemas.huggingface import CONFIG

MODULES, POOLING = "modules.json", "pooling_config.json"
MAX_MODULES = 16
_LIMITS, _PACKAGE = "sentence_bert_config.json", "sentence_transformers."
_STEPS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
PoolingMode = Literal["cls", "max", "mean"]
_OLDER_NAMES = {  # in the order in which several are put side by side
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentencePooling:
    """From a text to its vector.

    Attributes:
        modes: of these poolings the vector is put together.
        max_tokens: that are read of a text; None: as many as the network reads.
        lower_case: texts are read in lower case.
    """

    modes: tuple[PoolingMode, ...] = ("mean",)
    max_tokens: int | None = None
    lower_case: bool = False


class _Module(BaseModel):
    """An entry of ``modules.json``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    idx: Annotated[int, Field(ge=0, le=99)]
    name: ShortText
    path: Annotated[str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]{0,62})?$")]
    type: ShortText


_Width = Annotated[int, Field(ge=1, le=32_768)]
_Mode = Annotated[str, Field(max_length=40)]


class _PoolingConfig(BaseModel):
    """``1_Pooling/config.json``; since version 5.4 of sentence-transformers with one ``pooling_mode``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    word_embedding_dimension: _Width | None = None
    embedding_dimension: _Width | None = None
    include_prompt: bool | None = None
    pooling_mode: _Mode | Annotated[list[_Mode], Field(min_length=1, max_length=6)] | None = None
    pooling_mode_cls_token: bool | None = None
    pooling_mode_max_tokens: bool | None = None
    pooling_mode_mean_tokens: bool | None = None
    pooling_mode_mean_sqrt_len_tokens: bool | None = None
    pooling_mode_weightedmean_tokens: bool | None = None
    pooling_mode_lasttoken: bool | None = None


class _Limits(BaseModel):
    """What ``sentence_bert_config.json`` changes of a vector; versions of the library differ in the rest."""

    model_config = ConfigDict(extra="ignore", strict=True)

    max_seq_length: Annotated[int, Field(ge=3, le=1 << 20)] | None = None
    do_lower_case: bool | None = None
    transformer_task: Literal["feature-extraction"] | None = None


def read_pooling(directory: Path) -> SentencePooling | None:
    """The pooling of a text encoder; None where none is said: the mean over all tokens.

    Raises: UserError ``encoder_unreadable`` naming the file, and what of it is missing or cannot be applied.
    """
    flat = not any(path.is_dir() for path in directory.iterdir())
    older_copy = flat and not (directory / POOLING).is_file()
    path = None if older_copy else _pooling_file(directory)
    if path is None:
        return None
    limits = _Limits()
    if (directory / _LIMITS).is_file():
        limits = validate_model(_Limits, read_json_object(directory / _LIMITS), directory / _LIMITS)
    return SentencePooling(_read_modes(path), limits.max_seq_length, bool(limits.do_lower_case))


def files_to_import(directory: Path) -> dict[str, Path]:
    """The files of which a copy of an encoder consists, by their names in the copy.

    Raises: UserError as :func:`data_files` and :func:`detect_encoder`; ``encoder_unreadable`` for a text encoder whose
        pooling is missing or cannot be applied.
    """
    files = {path.name: path for path in data_files(directory)}
    if MODULES in files and detect_encoder(directory).reads == (TEXTS,):
        path = _pooling_file(directory)
        files |= {} if path is None else {POOLING: path}
    return files


def _pooling_file(directory: Path) -> Path | None:
    """Where the pooling is said; None where no ``modules.json`` does. Raises: UserError."""
    found, path = directory / POOLING, directory / MODULES
    if not path.is_file():
        return found if found.is_file() else None
    modules = _read_modules(path)
    if found.is_file():
        return found
    found = directory / modules[1].path / CONFIG
    for part in (found.parent, found):
        if part.is_symlink():
            raise schema_error(part, "it is a link; put the file itself in its place")
    if not found.is_file():
        reason = f"it names {modules[1].path}/{CONFIG}, which is not there; add that file, or remove {MODULES}"
        raise schema_error(path, f"{reason} to use the mean over all tokens")
    return found


def _read_modules(path: Path) -> list[_Module]:
    """Network, pooling and at most an L2 norm, which every use of the vectors applies too. Raises: UserError."""
    found = read_json(path)
    if not isinstance(found, list) or len(found) > MAX_MODULES:
        raise schema_error(
            path, f"this is not a list of at most {MAX_MODULES} modules, as sentence-transformers has it"
        )
    modules = sorted((validate_model(_Module, each, path) for each in found), key=lambda each: each.idx)
    # the library moved its classes between versions; code of others is named whole
    steps = [each.type.rpartition(".")[2] if each.type.startswith(_PACKAGE) else each.type for each in modules]
    if steps not in _STEPS:
        reason = f"the modules {', '.join(steps)} cannot be applied; Transformer, Pooling and then Normalize can"
        raise schema_error(path, f"{reason}: import an encoder of these")
    if modules[0].path:
        raise schema_error(path, f"the network is in the folder {modules[0].path}; move its files beside {MODULES}")
    return modules


def _read_modes(path: Path) -> tuple[PoolingMode, ...]:
    config = read_json_object(path)
    validate_model(_PoolingConfig, config, path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in _OLDER_NAMES.items() if config.get(name)]
        if not config.keys() & _OLDER_NAMES.keys():
            modes = ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    known = get_args(PoolingMode)
    if not modes:
        raise schema_error(path, f"it chooses no pooling; choose one of {', '.join(known)}")
    for mode in modes:
        if mode not in known:
            reason = f"the pooling {mode!r} cannot be applied; {', '.join(known)} can: import an encoder of these"
            raise schema_error(path, reason)
    return tuple(modes)
