"""Is what lies in an encoder's directory within the closed form of its kind? Told before anything of it is built.

Every number of its configuration, image transform and tokenizer is bounded, every name is known, and what the
configuration says is held against the shapes in the weights' headers, so that no file makes an encoder larger than the
weights that are there. Reads small files and headers alone; knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcl_core.errors import UserError
from lcl_core.interop import lcl_schema
from lcl_core.interop.huggingface_schema import check_config
from lcl_core.interop.openclip_schema import check_openclip
from lcl_core.interop.origins import TEXTS, Origin, is_kind, recognise
from lcl_core.interop.sizes import TensorHeader, header_of
from lcl_core.interop.small_files import data_files, refusal
from lcl_core.interop.timm_schema import check_efficientnet, check_timm
from lcl_core.interop.tokenizer_schema import TOKENIZER, check_own_tokenizer, check_tokenizer
from lcl_core.interop.tokenizer_settings_schema import check_tokenizer_settings
from lcl_core.interop.vocabulary_schema import check_word_files

# JSON that nothing is read from, and that may lie beside any encoder.
HARMLESS = {
    *("config_sentence_transformers.json", "data_config.json", "modules.json", "origin.json", "results.json"),
    *("sentence_bert_config.json", "train_results.json", "training.json", "training_args.json"),
}
_TOKENIZERS = {TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"}
_PROCESSORS = {"preprocessor_config.json", "processor_config.json"}
_HUB = {"config.json", "model.safetensors.index.json", *_PROCESSORS, *_TOKENIZERS}
READ = {
    "lcl": {"config.json", "preprocessor_config.json", lcl_schema.PROCESSOR, TOKENIZER},
    "huggingface": _HUB,
    "openclip": {"open_clip_config.json", *_HUB},
    "timm": {"config.json"},
    "efficientnet-lite": {"config.json"},
}
_EMBEDDINGS = ("token_embedding.weight", "word_embeddings.weight")

Header = dict[str, TensorHeader]


def check_encoder(directory: Path) -> Origin:
    """Whose encoder it is, if everything about it is within bounds.

    Raises: UserError ``bad_encoder`` or ``encoder_unreadable``, naming the file, the field and the bound.
    """
    try:
        files = data_files(directory)
    except OSError as error:
        raise refusal(directory, f"the directory cannot be listed ({error.strerror})") from error
    origin = recognise(directory)
    for path in files:
        if path.suffix == ".json" and path.name not in READ[origin.kind] | HARMLESS:
            raise refusal(path, f"no encoder of kind {origin.kind} has such a file; take it out of the directory")
    header: Header = {}
    for name in origin.weights:
        header |= header_of(directory / name)
    _CHECKS[origin.kind](directory, origin, header)
    return origin


def loadable(directory: Path) -> Origin:
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


def _lcl(directory: Path, origin: Origin, header: Header) -> None:
    settings = lcl_schema.settings_of(directory)
    wanted = lcl_schema.shapes_of(settings)
    check_shapes(directory / origin.weights[0], wanted, {name: tensor.shape for name, tensor in header.items()})
    check_own_tokenizer(directory / TOKENIZER, settings.vocab_size)


def check_shapes(weights: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """Raises: UserError ``encoder_unreadable`` naming the first tensor that config.json wants otherwise."""
    names = sorted(wanted.keys() ^ found.keys())
    if names:
        reason = f"the weights do not fit config.json ({len(names)} names differ, first {names[0][:200]!r})"
        raise refusal(weights, reason)
    for name, shape in wanted.items():
        if found[name] != shape:
            reason = f"the weights do not fit config.json: {name!r} has the shape {list(found[name])}, not"
            raise refusal(weights, f"{reason} {list(shape)}")


def _huggingface(directory: Path, origin: Origin, header: Header) -> None:
    config = check_config(directory)
    if TEXTS in origin.reads:
        sides = [config, config.get("text_config") or {}]
        said = [side["vocab_size"] for side in sides if side.get("vocab_size")]
        _check_words(directory, _rows(header, said))


def _openclip(directory: Path, origin: Origin, header: Header) -> None:
    text = check_openclip(directory)["model_cfg"]["text_cfg"]
    _check_words(directory, _rows(header, [text["vocab_size"]] if text.get("vocab_size") else []))


def _check_words(directory: Path, rows: int) -> None:
    if (path := directory / TOKENIZER).is_file():
        check_tokenizer(path, rows)
    check_word_files(directory, rows)
    check_tokenizer_settings(directory, rows)


def _rows(header: Header, said: list[int]) -> int:
    """Rows of the token embeddings: those of the weights, which no configuration exceeds."""
    found = [tensor.shape[0] for name, tensor in header.items() if name.endswith(_EMBEDDINGS) and tensor.shape]
    return min([*found, *said], default=1)


_CHECKS: dict[str, Callable[[Path, Origin, Header], Any]] = {
    "lcl": _lcl,
    "huggingface": _huggingface,
    "openclip": _openclip,
    "timm": lambda directory, origin, header: check_timm(directory),
    "efficientnet-lite": lambda directory, origin, header: check_efficientnet(directory),
}
