"""Identity of an encoder: one hash over all files that its vectors depend on. Imports no torch.

Beside the weights these are configuration, tokenizer and processor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from lcl_core.common.errors import Conflict, UserError
from lcl_core.common.files import sha256_file
from lcl_core.encoders.schemas.base import data_files

RELEVANT_SUFFIXES = (".json", ".safetensors", ".txt")  # files that may decide a vector
SUFFIXES = (*RELEVANT_SUFFIXES, ".md")  # of data files: neither pickles nor code; a model card is for people
Hashes = Mapping[str, str]


def hash_files(directory: Path) -> dict[str, str]:
    """sha256 (hex) of each data file by its name. Raises: OSError."""
    return {path.name: sha256_file(path) for path in data_files(directory)}


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


def changed_files(known: Hashes, other: Hashes) -> list[str]:
    """Names of the deciding files that are not equal in both, sorted."""
    left, right = _relevant(known), _relevant(other)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def check_unchanged(registered: Hashes, found: Hashes) -> None:
    """Compare the files of an encoder with what was registered of them.

    Args:
        registered: all of its files; without any ``.json``, as older versions noted them: the weights alone.

    Raises: UserError ``encoder_changed`` or, for a file that is gone, ``encoder_unreadable``.
    """
    known, there = _relevant(registered), _relevant(found)
    if not lists_all_files(known):
        there = {name: digest for name, digest in there.items() if name in known}
    if gone := sorted(known.keys() - there.keys()):
        raise UserError(f"{gone[0]} is gone from the directory of the encoder", code="encoder_unreadable")
    if changed := changed_files(known, there):
        names = ", ".join(changed[:4])
        message = f"{names} of this encoder changed since it was registered (sha256 differs)"
        raise Conflict(message, code="encoder_changed")


def lists_all_files(hashes: Hashes) -> bool:
    """Whether all files are named, and not the weights alone, as older versions noted them."""
    return any(name.endswith(".json") for name in hashes)


def _relevant(hashes: Hashes) -> dict[str, str]:
    return {name: digest for name, digest in hashes.items() if name.endswith(RELEVANT_SUFFIXES)}
