"""Checks that an encoder's directory conforms to the closed schema of its format, before anything of it is built.

Every number of its configuration, image transform and tokenizer is bounded, every name is known, and the configuration
is compared with the shapes in the weights' headers, so that no file makes an encoder larger than its weights. Reads
small files and headers alone. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.encoders.detect import IMAGES, TEXTS, EncoderFormat, detect_encoder, is_kind
from lcl_core.encoders.safetensors_header import TensorHeader, read_header
from lcl_core.encoders.schemas import lcl
from lcl_core.encoders.schemas.base import VOCABULARIES, data_files, schema_error
from lcl_core.encoders.schemas.huggingface import check_huggingface
from lcl_core.encoders.schemas.openclip import check_openclip
from lcl_core.encoders.schemas.pooling import POOLING, read_pooling
from lcl_core.encoders.schemas.timm import check_efficientnet, check_timm
from lcl_core.encoders.schemas.tokenizer import TOKENIZER, check_lcl_tokenizer, check_tokenizer
from lcl_core.encoders.schemas.vocabulary import check_tokenizer_settings, check_word_files

# JSON that may lie beside any encoder; nothing is read from it, but for the pooling of a text encoder alone
IGNORED_FILES = {
    *("config_sentence_transformers.json", "data_config.json", "modules.json", "origin.json", "results.json"),
    *("sentence_bert_config.json", "train_results.json", "training.json", "training_args.json"),
}
_TOKENIZERS = {TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"}
_PROCESSORS = {"preprocessor_config.json", "processor_config.json"}
# of our exports to transformers, as written or saved again there; nothing here reads them
_EXPORTED = {"preprocessor_config.json", "special_tokens_map.json", "tokenizer_config.json"}
_HUB = {"config.json", "model.safetensors.index.json", *_PROCESSORS, *_TOKENIZERS}
KNOWN_FILES = {
    "lcl": {"config.json", lcl.PROCESSOR, TOKENIZER, *_EXPORTED},
    "huggingface": {*_HUB, POOLING},
    "openclip": {"open_clip_config.json", *_HUB},
    "timm": {"config.json"},
    "efficientnet-lite": {"config.json"},
}
_EMBEDDINGS = ("token_embedding.weight", "word_embeddings.weight")

Header = dict[str, TensorHeader]


def check_encoder(directory: Path) -> EncoderFormat:
    """Whose encoder it is, if everything about it is within bounds.

    Raises: UserError ``bad_encoder`` or ``encoder_unreadable``, naming the file, the field and the bound.
    """
    try:
        files = data_files(directory)
    except OSError as error:
        raise schema_error(directory, f"the directory cannot be listed ({error.strerror})") from error
    origin = detect_encoder(directory)
    for path in files:
        if path.suffix == ".json" and path.name not in KNOWN_FILES[origin.kind] | IGNORED_FILES:
            raise schema_error(path, f"no encoder of kind {origin.kind} has such a file; take it out of the directory")
    for name in sorted({*KNOWN_FILES[origin.kind], *VOCABULARIES, *origin.weights}):
        if (directory / name).is_symlink():  # which no hash covers
            raise schema_error(directory / name, "it is a link; put the file itself in its place")
    header: Header = {}
    for name in origin.weights:
        header |= read_header(directory / name)
    _CHECKS[origin.kind](directory, origin, header)
    return origin


def check_loadable(directory: Path) -> EncoderFormat:
    """As :func:`check_encoder`, for loaders.

    Raises: UserError ``encoder_unreadable``, or ``bad_tokenizer`` where that is what is wrong with one of ours.
    """
    try:
        return check_encoder(directory)
    except UserError as error:
        own = error.file == str(directory / TOKENIZER) and is_kind(directory, "lcl")
        code = "bad_tokenizer" if own else "encoder_unreadable"
        message = f"the encoder cannot be loaded ({error.message}); give the directory of a saved encoder"
        raise UserError(message, code=code, field="encoder", file=error.file or directory) from error


def _check_lcl(directory: Path, origin: EncoderFormat, header: Header) -> None:
    settings = lcl.read_settings(directory)
    wanted = lcl.expected_shapes(settings)
    found = {name: tensor.shape for name, tensor in header.items()}
    if settings.vision.startswith("timm:"):  # the loader compares them, with timm
        found = {name: shape for name, shape in found.items() if not name.startswith("visual.")}
    check_shapes(directory / origin.weights[0], wanted, found)
    check_lcl_tokenizer(directory / TOKENIZER, settings.vocab_size, settings.special_ids)


def check_shapes(weights: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """Raises: UserError ``encoder_unreadable`` naming the first tensor that config.json wants otherwise."""
    names = sorted(wanted.keys() ^ found.keys())
    if names:
        reason = f"the weights do not fit config.json ({len(names)} names differ, first {names[0][:200]!r})"
        raise schema_error(weights, reason)
    for name, shape in wanted.items():
        if found[name] != shape:
            reason = f"the weights do not fit config.json: {name!r} has the shape {list(found[name])}, not"
            raise schema_error(weights, f"{reason} {list(shape)}")


def _check_huggingface(directory: Path, origin: EncoderFormat, header: Header) -> None:
    config = check_huggingface(directory)
    if TEXTS in origin.reads:
        sides = [config, *(config.get(name) or {} for name in ("text_config", "text_config_dict"))]
        said = [side["vocab_size"] for side in sides if side.get("vocab_size")]
        _check_tokenizer_files(directory, _embedding_rows(header, said))
    if IMAGES not in origin.reads:
        read_pooling(directory)


def _check_openclip(directory: Path, origin: EncoderFormat, header: Header) -> None:
    text = check_openclip(directory)["model_cfg"]["text_cfg"]
    _check_tokenizer_files(directory, _embedding_rows(header, [text["vocab_size"]] if text.get("vocab_size") else []))


def _check_tokenizer_files(directory: Path, rows: int) -> None:
    if (path := directory / TOKENIZER).is_file():
        check_tokenizer(path, rows)
    check_word_files(directory, rows)
    check_tokenizer_settings(directory, rows)


def _embedding_rows(header: Header, said: list[int]) -> int:
    """Rows of the token embeddings: those of the weights, which no configuration exceeds."""
    found = [tensor.shape[0] for name, tensor in header.items() if name.endswith(_EMBEDDINGS) and tensor.shape]
    return min([*found, *said], default=1)


_CHECKS: dict[str, Callable[[Path, EncoderFormat, Header], Any]] = {
    "lcl": _check_lcl,
    "huggingface": _check_huggingface,
    "openclip": _check_openclip,
    "timm": lambda directory, origin, header: check_timm(directory),
    "efficientnet-lite": lambda directory, origin, header: check_efficientnet(directory),
}
