"""Check the small files of an encoder before a library reads them. Imports no torch.

Sizes, names and shapes are judged by the libraries themselves, which try the encoder out in a confined process
(``sandbox``). Refused here is what that cannot find out: names that make a library run code or fetch weights, regular
expressions of exponential time, and texts that grow without bound where one letter stands that nobody tried.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcl_core.encoders.files import data_files, read_json, read_json_object, unreadable
from lcl_core.encoders.pooling import read_pooling
from lcl_core.encoders.registry import CONFIG, IMAGES, TOKENIZER, EncoderFormat, detect_encoder
from lcl_core.specs.vision import TOWER_PATTERN

ADAPTER = "adapter_config.json"  # with peft installed, transformers would load the model that it names
# settings by which a library imports code, or takes weights and words from another place
FORBIDDEN = {
    *("_attn_implementation", "_attn_implementation_internal", "attn_implementation", "auto_map", "backbone", "file"),
    *("hf_hub_filename", "hf_hub_id", "hf_model_name", "merges_file", "quantization_config", "timm_model_pretrained"),
    *("tokenizer_file", "url", "use_pretrained_backbone", "use_timm_backbone", "vocab_file"),
}
# code that our exports write beside the weights; nothing here runs it
_OWN_CODE = {
    *("configuration_lcl.LCLConfig", "encoder_model.LCLEncoderModel", "modeling_lcl.LCLConfig"),
    *("modeling_lcl.LCLModel", "processing_lcl.LCLProcessor", "processing_lcl.PortableProcessor"),
    *("processing_lcl.PortableImageProcessor", "processing_lcl.PortableTokenizer"),
}
_ARCHITECTURES = ("architecture", "timm_model_name")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100})?")  # no address of a hub

# what lcl_core.data.tokenizer cuts texts by
CLIP_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# as CLIP's, but a word keeps the space before it, so that decoding gives the spacing back
SPACED_PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
PATTERNS = {
    SPACED_PATTERN,
    CLIP_PATTERN,
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",  # CLIP's in transformers
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2's
    *(r"\s+", r" {2,}", r"\n", r"\A +| +\z", r"[\n\r\t]"),
}
_CLASS = re.compile(r"\[(?:[^\[\]\\&]|\\[^pPxuXhHRKkgGbBAzZ0-9]){1,100}\]")  # one of these characters, no repetition
MAX_PREFIX = 16  # characters that a step may put before a text
MAX_EXPANSION = 64  # bytes that a compiled normalisation map may make of a character: NFKC needs 33


def check_encoder(directory: Path) -> EncoderFormat:
    """Whose encoder it is. Raises: UserError ``encoder_unreadable``, naming the file and the field."""
    try:
        files = data_files(directory)
    except OSError as error:
        raise unreadable(directory, f"the directory cannot be listed ({error.strerror})") from error
    found = detect_encoder(directory)
    for path in files:
        if path.name == ADAPTER:
            raise unreadable(path, "adapters of other models are not read; merge it into the weights")
        if path.name == TOKENIZER:
            check_tokenizer(path)
        elif path.suffix == ".json":
            _refuse_code(path, read_json(path))
    if found.kind == "lcl" and not (directory / TOKENIZER).is_file():
        raise unreadable(
            directory / TOKENIZER, "the tokenizer is missing; take the file that was saved with the weights"
        )
    if IMAGES not in found.reads:
        read_pooling(directory)
    return found


def _refuse_code(path: Path, settings: Any) -> None:
    for name, value in _fields(settings):
        own = isinstance(value, dict) and set(_words(value)) <= _OWN_CODE
        if name in FORBIDDEN and value and not (name == "auto_map" and own):
            raise unreadable(path, f"{name}: code and weights of other places are not loaded; take it out of the file")
        if name in _ARCHITECTURES and value and not _ARCHITECTURE.fullmatch(str(value)):
            raise unreadable(path, f"{name}: {str(value)[:200]!r} is no architecture of timm; hubs are not contacted")
        if name == "vision" and path.name == CONFIG and not re.fullmatch(TOWER_PATTERN, str(value)):
            raise unreadable(path, f"vision: {str(value)[:200]!r} is no vision tower; hubs are not contacted")


def _words(value: Any) -> Iterator[str]:
    """The texts in it, at all depths."""
    if isinstance(value, str):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _words(child)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Every name with its value, at all depths."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield from value.items()
    for child in children:
        yield from _fields(child)


def check_tokenizer(path: Path) -> None:
    """Check the steps of a ``tokenizer.json``. Raises: UserError ``encoder_unreadable``."""
    steps = {name: value for name, value in read_json_object(path).items() if name not in ("model", "added_tokens")}
    for name, value in _fields(steps):
        if name == "Regex" and value not in PATTERNS and not _CLASS.fullmatch(str(value)):
            reason = f"the regular expression {str(value)[:80]!r} is of no tokenizer that is known here"
            raise unreadable(path, reason)
        if name == "prepend" and len(str(value)) > MAX_PREFIX:
            raise unreadable(path, f"prepend: {MAX_PREFIX} characters are allowed")
        if name == "precompiled_charsmap" and _longest_expansion(value) > MAX_EXPANSION:
            raise unreadable(path, f"{name}: the map makes more than {MAX_EXPANSION} bytes of a character")
        for step in value if isinstance(value, list) else [value]:
            if isinstance(step, dict) and step.get("type") == "Replace":
                pattern = step.get("pattern")
                replaced = pattern.get("String", "x") if isinstance(pattern, dict) else "x"
                if len(str(step.get("content"))) > len(replaced):
                    raise unreadable(path, "Replace: the replacement is longer than what it replaces")


def _longest_expansion(charsmap: Any) -> int:
    """Bytes that a map of SentencePiece makes of a character at most: a table, then the texts that it points into."""
    try:
        data = base64.b64decode(charsmap, validate=True)
        (table,) = struct.unpack_from("<I", data)
    except (TypeError, ValueError, struct.error):
        return MAX_EXPANSION + 1
    return max(map(len, data[4 + table :].split(b"\0")))
