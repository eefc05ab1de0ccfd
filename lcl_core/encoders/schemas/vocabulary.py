"""Closed schemas of vocabularies, added tokens and ``tokenizer_config.json``.

Bounded are the number and length of the words; their ids must be rows of the token embeddings. Whatever names code
(``auto_map``), other files or a template that is run is left out of the schemas, and so refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from lcl_core.encoders.schemas.base import (
    MAX_VOCABULARY,
    ShortText,
    one_of,
    read_json_object,
    read_lines,
    schema_error,
    validate_model,
)

MAX_WORDS = 1 << 20
MAX_MERGES = 1 << 20  # a vocabulary of SentencePiece has several merges of one word
MAX_WORD = 2048  # characters: words that are learnt on runs of one sign grow long
MAX_ADDED = 4096

_Text = Annotated[str, Field(max_length=MAX_WORD)]
_Affix = Annotated[str, Field(max_length=16)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class BPE(_Closed):
    type: Literal["BPE"]
    dropout: None = None
    unk_token: _Text | None = None
    continuing_subword_prefix: _Affix | None = None
    end_of_word_suffix: _Affix | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


class WordPiece(_Closed):
    type: Literal["WordPiece"]
    unk_token: _Text
    continuing_subword_prefix: _Affix
    max_input_chars_per_word: Annotated[int, Field(ge=1, le=1000)]


class WordLevel(_Closed):
    type: Literal["WordLevel"]
    unk_token: _Text


class Unigram(_Closed):
    type: Literal["Unigram"]
    unk_id: Annotated[int, Field(ge=0, lt=MAX_WORDS)] | None = None
    byte_fallback: bool = False
    alpha: None = None
    nbest_size: None = None


class AddedToken(_Closed):
    """A word that is found before the rest of a text is cut."""

    id: Annotated[int, Field(ge=0, lt=MAX_WORDS)]
    content: Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


class _Added(_Closed):
    added_tokens: Annotated[list[AddedToken], Field(max_length=MAX_ADDED)]


_MODELS: dict[Any, type[_Closed]] = {"BPE": BPE, "WordPiece": WordPiece, "WordLevel": WordLevel, "Unigram": Unigram}


def check_vocabulary(path: Path, model: Any, rows: int) -> dict[str, int]:
    """Check the ``model`` of a tokenizer; its words and their ids. Raises: UserError ``encoder_unreadable``."""
    if not isinstance(model, dict):
        raise schema_error(path, "it has no model with a vocabulary")
    settings = dict(model)
    words, merges = settings.pop("vocab", None), settings.pop("merges", None)
    kind = settings.setdefault("type", _kind_of(settings, words, merges))
    if not isinstance(kind, str) or kind not in _MODELS:
        raise schema_error(path, f"model.type {str(kind)[:80]!r} is none of {', '.join(_MODELS)}")
    validate_model(_MODELS[kind], settings, path)
    found = _pieces(path, words) if kind == "Unigram" else check_words(path, words, rows)
    if len(found) > rows:
        raise schema_error(path, f"its {len(found)} words are more than the {rows} rows of the token embeddings")
    if kind == "BPE":
        _check_merges(path, merges, found, settings)
    elif merges is not None:
        raise schema_error(path, f"merges do not belong to a model of type {kind}")
    unknown = settings.get("unk_token")
    if unknown is not None and unknown not in found:
        raise schema_error(path, f"model.unk_token {unknown[:80]!r} is not in the vocabulary")
    if kind == "Unigram" and (settings.get("unk_id") or 0) >= len(found):
        raise schema_error(path, "model.unk_id is not in the vocabulary")
    return found


def _kind_of(settings: dict[str, Any], words: Any, merges: Any) -> str | None:
    """The type of a model that does not say it, as files of early versions do not: of the names that it has."""
    if merges is not None:
        return "BPE"
    if isinstance(words, list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in settings else "WordLevel" if "unk_token" in settings else None


def check_words(path: Path, words: Any, rows: int) -> dict[str, int]:
    """{word: id}, each id once and below ``rows``. Raises: UserError ``encoder_unreadable``."""
    if not isinstance(words, dict) or not 0 < len(words) <= MAX_WORDS:
        raise schema_error(path, f"the vocabulary is no object of 1 to {MAX_WORDS:,} words")
    for word, number in words.items():
        if type(number) is not int or not 0 <= number < rows:
            reason = f"the id {str(number)[:40]} of {word[:80]!r} is no row of the token embeddings, of which there are"
            raise schema_error(path, f"{reason} {rows}")
    if len(longest := max(words, key=len)) > MAX_WORD:
        raise schema_error(path, f"the word {longest[:40]!r}… has {len(longest):,} characters; {MAX_WORD} are allowed")
    if len(set(words.values())) != len(words):
        raise schema_error(path, "two words of the vocabulary have one id")
    return words


def check_added(path: Path, added: Any, words: dict[str, int], rows: int) -> int:
    """Check ``added_tokens``; how many ids there are with them. Raises: UserError ``encoder_unreadable``."""
    tokens = validate_model(_Added, {"added_tokens": added}, path).added_tokens
    found = dict(words)
    for token in tokens:
        known = found.setdefault(token.content, token.id)
        if known != token.id:
            raise schema_error(path, f"the added token {token.content[:80]!r} has the id {token.id}, its word {known}")
        if token.id >= rows:
            raise schema_error(
                path, f"the id {token.id} of {token.content[:80]!r} is no row of the token embeddings ({rows})"
            )
    if len(set(found.values())) != len(found):
        raise schema_error(path, "two added tokens have one id")
    return len(found)


def check_word_files(directory: Path, rows: int) -> None:
    """``vocab.json``, ``merges.txt`` and ``vocab.txt``, where they lie there. Raises: UserError."""
    if (path := directory / "vocab.json").is_file():
        check_words(path, read_json_object(path, MAX_VOCABULARY), rows)
    for name in ("merges.txt", "vocab.txt"):
        if (path := directory / name).is_file():
            longest = max(map(len, read_lines(path, MAX_WORDS)))
            if longest > 2 * MAX_WORD + 1:
                raise schema_error(path, f"a line has {longest:,} characters; {2 * MAX_WORD + 1} are allowed")


def _pieces(path: Path, words: Any) -> dict[str, int]:
    if not isinstance(words, list) or not 0 < len(words) <= MAX_WORDS:
        raise schema_error(path, f"the vocabulary is no list of 1 to {MAX_WORDS:,} pieces")
    found: dict[str, int] = {}
    for number, piece in enumerate(words):
        if (
            not isinstance(piece, list) or len(piece) != 2 or not isinstance(piece[0], str)
            or type(piece[1]) not in (int, float) or not math.isfinite(piece[1]) or abs(piece[1]) > 1e6
        ):  # fmt: skip
            raise schema_error(path, f"piece {number} of the vocabulary is no text with its score")
        if len(piece[0]) > MAX_WORD:
            raise schema_error(
                path, f"the word {piece[0][:40]!r}… has {len(piece[0]):,} characters; {MAX_WORD} are allowed"
            )
        found[piece[0]] = number
    return found


def _check_merges(path: Path, merges: Any, words: dict[str, int], settings: dict[str, Any]) -> None:
    if not isinstance(merges, list) or len(merges) > MAX_MERGES:
        raise schema_error(path, f"model.merges is no list of at most {MAX_MERGES:,} merges")
    prefix = settings.get("continuing_subword_prefix") or ""
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise schema_error(path, f"merge {number} is no pair of words")
        left, right = parts
        if left not in words or right not in words or left + right.removeprefix(prefix) not in words:
            raise schema_error(path, f"merge {number} is of words that are not in the vocabulary")


SETTINGS, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMES = (
    *("BertTokenizer", "CLIPTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "GPT2Tokenizer", "GemmaTokenizer"),
    *("MPNetTokenizer", "RobertaTokenizer", "SiglipTokenizer", "T5Tokenizer", "XLMRobertaTokenizer"),
)
CLASSES = (*NAMES, *(f"{name}Fast" for name in NAMES), "PreTrainedTokenizerFast", "TokenizersBackend")
_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Content = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
_Side = Literal["left", "right"]


class TokenDescription(BaseModel):
    """A token with how it is found in a text."""

    model_config = _CLOSED

    content: _Content
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    single_word: bool = False
    special: bool = False
    id: Annotated[int, Field(ge=0, lt=1 << 20)] | None = None
    type: Literal["AddedToken"] | None = Field(None, alias="__type")


_Token = _Content | TokenDescription
_Several = (
    Annotated[list[_Token], Field(max_length=MAX_ADDED)]
    | Annotated[dict[ShortText, _Token], Field(max_length=MAX_ADDED)]
)
_FIELDS: dict[Any, tuple[str, ...]] = {
    _Token: ("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"),
    _Several: ("additional_special_tokens", "extra_special_tokens"),
}
_MORE: dict[Any, tuple[str, ...]] = {
    bool: (
        *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "do_basic_tokenize"),
        *("do_lower_case", "is_local", "local_files_only", "legacy", "split_special_tokens", "strip_accents"),
        *("spaces_between_special_tokens", "tokenize_chinese_chars", "trim_offsets", "use_default_system_prompt"),
        "use_fast",
    ),
    Annotated[str, one_of(*CLASSES)]: ("tokenizer_class",),
    Literal["tokenizers"]: ("backend",),
    Literal["ignore", "replace", "strict"]: ("errors",),
    _Side: ("padding_side", "truncation_side"),
    Literal["longest_first", "only_first", "only_second"]: ("truncation_strategy",),
    Annotated[float, Field(ge=1, le=1e31)]: ("model_max_length",),
    Annotated[int, Field(ge=1, le=8192)]: ("max_length",),
    Annotated[int, Field(ge=1, le=512)]: ("pad_to_multiple_of",),
    Annotated[int, Field(ge=0, le=8)]: ("pad_token_type_id", "stride"),
    Annotated[int, Field(ge=0, le=MAX_ADDED)]: ("extra_ids",),
    ShortText: ("name_or_path", "processor_class", "special_tokens_map_file"),  # words: nothing is opened by them
    Annotated[dict[str, TokenDescription], Field(max_length=MAX_ADDED)]: ("added_tokens_decoder",),
    Annotated[dict[str, Any], Field(max_length=0)]: ("sp_model_kwargs",),
    Annotated[list[str], Field(max_length=0)]: ("never_split", "model_specific_special_tokens"),
    Annotated[list[Literal["attention_mask", "input_ids", "token_type_ids"]], Field(max_length=3)]: (
        "model_input_names",
    ),
    None: ("chat_template", "merges_file", "tokenizer_file", "vocab_file"),
}  # fmt: skip


def _closed_model(name: str, *groups: dict[Any, tuple[str, ...]]) -> Any:
    fields: Any = {
        each: (kind | None if kind else None, None)
        for group in groups
        for kind, names in group.items()
        for each in names
    }
    return create_model(name, __config__=_CLOSED, **fields)


_Specials: Any = _closed_model("SpecialTokens", _FIELDS)
_Settings: Any = _closed_model("TokenizerSettings", _FIELDS, _MORE)


def check_tokenizer_settings(directory: Path, rows: int) -> None:
    """Raises: UserError ``encoder_unreadable`` naming the file and the field."""
    if (path := directory / SETTINGS).is_file():
        validate_model(_Settings, read_json_object(path), path)
    if (path := directory / SPECIALS).is_file():
        validate_model(_Specials, read_json_object(path), path)
    if (path := directory / ADDED).is_file():
        found = read_json_object(path)
        if found:
            check_words(path, found, rows)
