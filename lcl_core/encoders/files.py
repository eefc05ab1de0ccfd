"""The files of a saved encoder: which they are, strict reading of small ones, headers of weights, hashes. No torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lcl_core.common.errors import Conflict, UserError
from lcl_core.common.files import parse_strict_json, sha256_file

RELEVANT_SUFFIXES = (".json", ".safetensors", ".txt")  # files that may decide a vector
SUFFIXES = (*RELEVANT_SUFFIXES, ".md")  # of data files: neither pickles nor code; a model card is for people
MAX_CONFIG = 2 << 20  # bytes
MAX_VOCABULARY = 64 << 20  # bytes: a tokenizer of 256,000 words and 580,000 merges has 34 million
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
Hashes = Mapping[str, str]


def unreadable(path: Path, reason: str) -> UserError:
    return UserError(reason, code="encoder_unreadable", field="encoder", file=path)


def data_files(directory: Path) -> list[Path]:
    """The regular files of an encoder by their names, sorted; links, code and pickles are not among them.

    Raises: UserError ``encoder_unreadable`` for a small file that is too large; OSError when the directory cannot be
        listed.
    """
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if path.name.endswith(SUFFIXES) and path.is_file()]
    found = sorted(path for path in found if not path.is_symlink())
    for path in found:
        most = MAX_VOCABULARY if path.name in VOCABULARIES else MAX_CONFIG
        if path.suffix != ".safetensors" and (size := path.stat().st_size) > most:
            raise unreadable(path, f"its {size:,} bytes are more than such a file may have ({most:,})")
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """Raises: as :func:`read_json`, also for what is no object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise unreadable(path, "this is not a model's configuration or vocabulary, which are JSON objects")
    return found


def read_json(path: Path) -> Any:
    """Raises: UserError ``encoder_unreadable`` naming the file, also where parsers of JSON differ."""
    most = MAX_VOCABULARY if path.name in VOCABULARIES else MAX_CONFIG
    try:
        with path.open("rb") as file:
            body = file.read(most + 1)
        if len(body) > most:
            raise ValueError(f"it has more than {most:,} bytes")
        return parse_strict_json(body.decode("utf-8"))
    except OSError as error:
        raise unreadable(path, f"{path.name} cannot be read ({error.strerror})") from error
    except (JSONDecodeError, UnicodeDecodeError) as error:
        raise unreadable(path, f"this is not JSON ({error})") from error
    except RecursionError as error:
        raise unreadable(path, "this is JSON nested too deeply") from error
    except ValueError as error:
        raise unreadable(path, f"this JSON is ambiguous or invalid ({error})") from error


def tensor_shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by its name, from the header alone.

    Raises: UserError ``encoder_unreadable`` for a file that is no safetensors, or not a whole one.
    """
    try:
        with safe_open(weights, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise unreadable(weights, f"this is not a whole safetensors file ({error})") from error


def tensor_sizes(weights: Path) -> dict[str, int]:
    """Numbers in each tensor by its name. Raises: as :func:`tensor_shapes`."""
    return {name: math.prod(shape) for name, shape in tensor_shapes(weights).items()}


def hash_files(directory: Path) -> dict[str, str]:
    """sha256 (hex) of each data file by its name. Raises: UserError ``encoder_unreadable``."""
    try:
        return {path.name: sha256_file(path) for path in data_files(directory)}
    except OSError as error:
        reason = f"a file cannot be read ({error.strerror}); give the directory of a saved encoder"
        raise unreadable(Path(error.filename or directory), reason) from error


def identity_hash(hashes: Hashes) -> str:
    """sha256 (hex) over the sorted names and hashes of all files that decide vectors."""
    lines = (f"{name}\0{digest}\n" for name, digest in sorted(_relevant(hashes).items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def combined_weights_hash(hashes: Hashes, weights: tuple[str, ...]) -> str:
    """Hash of the weights: of the one file, or of names and hashes of several. Raises: KeyError for a missing file."""
    digests = [hashes[name] for name in weights]
    if len(digests) == 1:
        return digests[0]
    lines = (f"{name}\0{digest}\n" for name, digest in zip(weights, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_weights(directory: Path, weights: tuple[str, ...]) -> str:
    return combined_weights_hash({name: sha256_file(directory / name) for name in weights}, weights)


def changed_files(known: Hashes, other: Hashes) -> list[str]:
    """Names of the deciding files that are not equal in both, sorted."""
    left, right = _relevant(known), _relevant(other)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def check_unchanged(registered: Hashes, found: Hashes) -> None:
    """Compare the files of an encoder with what was registered of them: nothing where no service did.

    Raises: UserError ``encoder_changed`` or, for a file that is gone, ``encoder_unreadable``.
    """
    if not registered:
        return
    if gone := sorted(_relevant(registered).keys() - found.keys()):
        raise UserError(f"{gone[0]} is gone from the directory of the encoder", code="encoder_unreadable")
    if changed := changed_files(registered, found):
        names = ", ".join(changed[:4])
        message = f"{names} of this encoder changed since it was registered (sha256 differs)"
        raise Conflict(message, code="encoder_changed")


def _relevant(hashes: Hashes) -> dict[str, str]:
    return {name: digest for name, digest in hashes.items() if name.endswith(RELEVANT_SUFFIXES)}
