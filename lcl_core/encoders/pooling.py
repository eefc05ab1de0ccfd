"""How a sentence encoder makes one vector of a text's tokens, as sentence-transformers saves it. Imports no torch.

``modules.json`` names the steps, ``1_Pooling/config.json`` the pooling, ``sentence_bert_config.json`` how much of a
text is read. A copy that the service keeps has no folders: there the pooling's file is ``pooling_config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lcl_core.encoders.files import data_files, read_json, read_json_object, unreadable
from lcl_core.encoders.registry import CONFIG, TEXTS, detect_encoder

MODULES, POOLING = "modules.json", "pooling_config.json"
LIMITS, _PACKAGE = "sentence_bert_config.json", "sentence_transformers."
_STEPS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
PoolingMode = Literal["cls", "max", "mean"]
_SWITCHES = {  # of versions before 5.4, in the order in which several are put side by side
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
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


def read_pooling(directory: Path) -> SentencePooling | None:
    """The pooling of a text encoder; None where none is said: the mean over all tokens.

    Raises: UserError ``encoder_unreadable`` naming the file, and what of it is missing or cannot be applied.
    """
    path = _pooling_file(directory)
    if path is None:
        return None
    limits_path = directory / LIMITS
    limits = read_json_object(limits_path) if limits_path.is_file() else {}
    return SentencePooling(_read_modes(path), limits.get("max_seq_length"), bool(limits.get("do_lower_case")))


def files_to_import(directory: Path) -> dict[str, Path]:
    """The files of which a copy of an encoder consists, by their names in the copy.

    Raises: UserError ``encoder_unreadable``, also for a text encoder whose pooling is missing or cannot be applied.
    """
    files = {path.name: path for path in data_files(directory)}
    if MODULES in files and detect_encoder(directory).reads == (TEXTS,):
        path = _pooling_file(directory)
        files |= {} if path is None else {POOLING: path}
    return files


def _pooling_file(directory: Path) -> Path | None:
    """Where the pooling is said; None where no ``modules.json`` does. Raises: UserError."""
    copied, path = directory / POOLING, directory / MODULES
    if not path.is_file():
        return copied if copied.is_file() else None
    folder = _pooling_folder(path)
    if copied.is_file():
        return copied
    found = directory / folder / CONFIG
    if found.parent.is_symlink() or found.is_symlink() or not found.is_file():  # no hash covers what is linked
        reason = f"it names {folder}/{CONFIG}, which is not there; add that file, or remove {MODULES}"
        raise unreadable(path, f"{reason} to use the mean over all tokens")
    return found


def _pooling_folder(path: Path) -> str:
    """The folder of the second step: the first is the network, the third at most an L2 norm, as every use applies."""
    modules: Any = read_json(path)
    try:
        modules = sorted(modules, key=lambda module: module["idx"])
        steps = [module["type"] for module in modules]
        # the library moved its classes between versions; code of others is named whole
        steps = [step.rpartition(".")[2] if step.startswith(_PACKAGE) else step for step in steps]
        folders = [module["path"] for module in modules]
    except (TypeError, KeyError, AttributeError) as error:
        raise unreadable(path, "this is not a list of modules, as sentence-transformers has it") from error
    if steps not in _STEPS:
        reason = f"the modules {', '.join(steps)[:300]} cannot be applied; Transformer, Pooling and then Normalize can"
        raise unreadable(path, f"{reason}: import an encoder of these")
    if folders[0]:
        raise unreadable(path, f"the network is in the folder {folders[0]}; move its files beside {MODULES}")
    folder = str(folders[1])
    if Path(folder).name != folder:
        raise unreadable(path, f"{folder!r} is no folder beside {MODULES}")
    return folder


def _read_modes(path: Path) -> tuple[PoolingMode, ...]:
    config, known = read_json_object(path), get_args(PoolingMode)
    modes = config.get("pooling_mode")
    if modes is None:
        switches = {name: chosen for name, chosen in config.items() if name.startswith("pooling_mode_")}
        modes = [mode for name, mode in _SWITCHES.items() if switches.get(name)] if switches else ["mean"]
        modes += [name for name, chosen in switches.items() if chosen and name not in _SWITCHES]
    modes = [modes] if isinstance(modes, str) else modes
    if not modes or not isinstance(modes, list):
        raise unreadable(path, f"it chooses no pooling; choose one of {', '.join(known)}")
    for mode in modes:
        if mode not in known:
            reason = f"the pooling {str(mode)[:80]!r} cannot be applied; {', '.join(known)} can"
            raise unreadable(path, f"{reason}: import an encoder of these")
    return tuple(modes)
