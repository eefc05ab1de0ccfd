"""What ``tokenizer.json`` may say: steps and regular expressions that known tokenizers use, and a bounded vocabulary.

A tokenizer is a program: its expressions may take exponential time, its replacements may turn a letter into a gigabyte.
So every step is known by name with all of its settings, an expression is one of a list or a single character class,
what a replacement puts in is no longer than what it takes out, and all steps together lengthen a text by a bounded
factor: a text is normalised and split before it is cut to the encoder's context. Knows no ``tokenizers``.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lcl_core.encoders.schemas.base import MAX_VOCABULARY, read_json_object, schema_error, validate_model
from lcl_core.encoders.schemas.vocabulary import check_added, check_vocabulary

TOKENIZER = "tokenizer.json"
MAX_STEPS = 16
MAX_TEXT = 16  # characters that a step may put in or take out
MAX_EXPANSION = 64  # bytes that a compiled normalisation map may make of a character: NFKC needs 33
MAX_GROWTH = 256  # characters that all steps together may make of one: a map of SentencePiece in small letters, and "▁"
# characters that Unicode's own steps make of one at most
_UNICODE_GROWTH = {"Lowercase": 2, "NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18}
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

_Text = Annotated[str, Field(max_length=MAX_TEXT)]
_Affix = Annotated[str, Field(max_length=MAX_TEXT)]
_Few = Annotated[int, Field(ge=0, le=MAX_TEXT)]
_Letter = Annotated[str, Field(min_length=1, max_length=1)]
_Token = Annotated[str, Field(max_length=256)]
_Id = Annotated[int, Field(ge=0, lt=1 << 20)]
_Piece = Annotated[list[_Token | _Id], Field(min_length=2, max_length=2)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @property
    def growth(self) -> int:
        """As a step: the number of characters that it makes of one at most."""
        return 1


class _Regex(_Closed):
    Regex: str

    @field_validator("Regex")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PATTERNS and not _CLASS.fullmatch(value):
            raise ValueError(f"the regular expression {value[:80]!r} is of no tokenizer that is known here")
        return value


class _String(_Closed):
    String: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class Plain(_Closed):
    """A step that has no settings."""

    type: Literal[
        "BertPreTokenizer", "ByteFallback", "Fuse", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents",
        "UnicodeScripts", "Whitespace", "WhitespaceSplit",
    ]  # fmt: skip

    @property
    def growth(self) -> int:
        return _UNICODE_GROWTH.get(self.type, 1)


class Prepend(_Closed):
    type: Literal["Prepend"]
    prepend: _Text

    @property
    def growth(self) -> int:
        return 1 + len(self.prepend)  # the text between two added tokens may be one character


class Replace(_Closed):
    type: Literal["Replace"]
    pattern: _Regex | _String
    content: _Text

    @model_validator(mode="after")
    def _no_growth(self) -> Replace:
        taken = len(self.pattern.String) if isinstance(self.pattern, _String) else 1
        if len(self.content) > taken:
            raise ValueError("a replacement is longer than what it replaces")
        return self


class Strip(_Closed):
    type: Literal["Strip"]
    strip_left: bool | None = None
    strip_right: bool | None = None
    content: _Letter | None = None
    start: _Few | None = None
    stop: _Few | None = None


class BertNormalizer(_Closed):
    type: Literal["BertNormalizer"]
    clean_text: bool
    handle_chinese_chars: bool
    strip_accents: bool | None
    lowercase: bool

    @property
    def growth(self) -> int:
        return (
            3 * _UNICODE_GROWTH["NFD"]
        )  # spaces around Chinese signs; accents are taken apart before they are removed


class Precompiled(_Closed):
    """The map of characters that SentencePiece compiles: a table, then the texts that it points into."""

    type: Literal["Precompiled"]
    precompiled_charsmap: Annotated[str, Field(max_length=4 << 20)]

    @field_validator("precompiled_charsmap")
    @classmethod
    def _short(cls, value: str) -> str:
        data = base64.b64decode(value, validate=True)
        (table,) = struct.unpack_from("<I", data) if len(data) >= 4 else (len(data),)
        texts = data[4 + table :]
        if table % 4 or not texts or max(map(len, texts.split(b"\0"))) > MAX_EXPANSION:
            raise ValueError(f"the map makes more than {MAX_EXPANSION} bytes of a character")
        return value

    @property
    def growth(self) -> int:
        return MAX_EXPANSION


class ByteLevel(_Closed):
    type: Literal["ByteLevel"]
    add_prefix_space: bool = True
    trim_offsets: bool = True
    use_regex: bool = True

    @property
    def growth(self) -> int:
        return 4 * (1 + self.add_prefix_space)  # a character for each byte


class Metaspace(_Closed):
    type: Literal["Metaspace"]
    replacement: _Letter
    str_rep: _Letter | None = None
    add_prefix_space: bool | None = None
    prepend_scheme: Literal["always", "first", "never"] | None = None
    split: bool | None = None

    @property
    def growth(self) -> int:
        return 2  # a word may be one character


class Split(_Closed):
    type: Literal["Split"]
    pattern: _Regex | _String
    behavior: Literal["Contiguous", "Isolated", "MergedWithNext", "MergedWithPrevious", "Removed"]
    invert: bool


class Punctuation(_Closed):
    type: Literal["Punctuation"]
    behavior: Literal["Contiguous", "Isolated", "MergedWithNext", "MergedWithPrevious", "Removed"] = "Isolated"


class Digits(_Closed):
    type: Literal["Digits"]
    individual_digits: bool


class WordPieceDecoder(_Closed):
    type: Literal["WordPiece"]
    prefix: _Affix
    cleanup: bool


class BPEDecoder(_Closed):
    type: Literal["BPEDecoder"]
    suffix: _Affix


class BertProcessing(_Closed):
    type: Literal["BertProcessing", "RobertaProcessing"]
    sep: _Piece
    cls: _Piece
    trim_offsets: bool = True
    add_prefix_space: bool = True


class _Slot(_Closed):
    id: _Token
    type_id: Annotated[int, Field(ge=0, le=8)]


class _Special(_Closed):
    SpecialToken: _Slot


class _Sequence(_Closed):
    Sequence: _Slot


class _Tokens(_Closed):
    id: _Token
    ids: Annotated[list[_Id], Field(min_length=1, max_length=MAX_STEPS)]
    tokens: Annotated[list[_Token], Field(min_length=1, max_length=MAX_STEPS)]


class TemplateProcessing(_Closed):
    """Each text stands once in a template."""

    type: Literal["TemplateProcessing"]
    single: Annotated[list[_Special | _Sequence], Field(max_length=MAX_STEPS)]
    pair: Annotated[list[_Special | _Sequence], Field(max_length=MAX_STEPS)]
    special_tokens: Annotated[dict[_Token, _Tokens], Field(max_length=MAX_STEPS)]

    @model_validator(mode="after")
    def _once(self) -> TemplateProcessing:
        for pieces in (self.single, self.pair):
            texts = [piece.Sequence.id for piece in pieces if isinstance(piece, _Sequence)]
            if len(texts) != len(set(texts)):
                raise ValueError("a template repeats a text")
        return self


class _Steps(_Closed):
    """Several steps, one after the other: of each kind's own, and no such list within a list."""

    type: Literal["Sequence"]


_Normalizer = Annotated[
    Plain | Prepend | Replace | Strip | BertNormalizer | Precompiled | ByteLevel, Field(discriminator="type")
]
_PreTokenizer = Annotated[
    Plain | ByteLevel | Metaspace | Split | Punctuation | Digits, Field(discriminator="type")
]  # fmt: skip
_PostProcessor = Annotated[BertProcessing | TemplateProcessing | ByteLevel, Field(discriminator="type")]
_Decoder = Annotated[
    Plain | ByteLevel | Metaspace | Replace | Strip | WordPieceDecoder | BPEDecoder, Field(discriminator="type")
]


class _Normalizers(_Steps):
    normalizers: Annotated[list[_Normalizer], Field(max_length=MAX_STEPS)]


class _PreTokenizers(_Steps):
    pretokenizers: Annotated[list[_PreTokenizer], Field(max_length=MAX_STEPS)]


class _PostProcessors(_Steps):
    processors: Annotated[list[_PostProcessor], Field(max_length=MAX_STEPS)]


class _Decoders(_Steps):
    decoders: Annotated[list[_Decoder], Field(max_length=MAX_STEPS)]


class Truncation(_Closed):
    direction: Literal["Left", "Right"] = "Right"
    max_length: Annotated[int, Field(ge=1, le=8192)]
    strategy: Literal["LongestFirst", "OnlyFirst", "OnlySecond"]
    stride: Literal[0] = 0


class Fixed(_Closed):
    Fixed: Annotated[int, Field(ge=1, le=8192)]


class Padding(_Closed):
    strategy: Literal["BatchLongest"] | Fixed
    direction: Literal["Left", "Right"] = "Right"
    pad_to_multiple_of: Annotated[int, Field(ge=1, le=512)] | None = None
    pad_id: _Id
    pad_type_id: Annotated[int, Field(ge=0, le=8)] = 0
    pad_token: _Token


class TokenizerFile(_Closed):
    """The file without ``model`` and ``added_tokens``, which are too long for a model a piece."""

    version: Literal["1.0"]
    truncation: Truncation | None = None
    padding: Padding | None = None
    normalizer: Annotated[_Normalizers | _Normalizer, Field(discriminator="type")] | None = None
    pre_tokenizer: Annotated[_PreTokenizers | _PreTokenizer, Field(discriminator="type")] | None = None
    post_processor: Annotated[_PostProcessors | _PostProcessor, Field(discriminator="type")] | None = None
    decoder: Annotated[_Decoders | _Decoder, Field(discriminator="type")] | None = None

    @model_validator(mode="after")
    def _bounded_growth(self) -> TokenizerFile:
        """What the steps before the vocabulary make of a text: their factors multiply."""
        steps = [*_steps(self.normalizer), *_steps(self.pre_tokenizer)]
        for kind in (Precompiled, ByteLevel):
            if sum(isinstance(step, kind) for step in steps) > 1:
                raise ValueError(
                    f"{kind.__name__} stands twice in normalizer and pre_tokenizer; it may stand there once"
                )
        growth = math.prod(step.growth for step in steps)
        if growth > MAX_GROWTH:
            what = "the steps of normalizer and pre_tokenizer together"
            raise ValueError(f"{what} may make {growth:,} characters of one; {MAX_GROWTH} are allowed")
        return self


def _steps(found: _Closed | None) -> list[_Closed]:
    """A normaliser or pre-tokenizer as the steps that it consists of."""
    if isinstance(found, _Normalizers):
        return list(found.normalizers)
    if isinstance(found, _PreTokenizers):
        return list(found.pretokenizers)
    return [] if found is None else [found]


def check_tokenizer(path: Path, rows: int) -> int:
    """Check a ``tokenizer.json``; the number of its ids.

    Args:
        rows: of the token embeddings, below which every id must lie.

    Raises: UserError ``encoder_unreadable`` naming the file and what is wrong.
    """
    found = read_json_object(path, MAX_VOCABULARY)
    model, added = found.pop("model", None), found.pop("added_tokens", [])
    file = validate_model(TokenizerFile, found, path)
    if (highest := max(_added_ids(file.post_processor), default=0)) >= rows:
        raise schema_error(
            path, f"post_processor adds the id {highest}, which is no row of the token embeddings ({rows})"
        )
    vocabulary = check_vocabulary(path, model, rows)
    return check_added(path, added, vocabulary, rows)


def _added_ids(processor: BaseModel | None) -> list[int]:
    """The ids that a post-processor adds."""
    if isinstance(processor, _PostProcessors):
        return [number for each in processor.processors for number in _added_ids(each)]
    if isinstance(processor, TemplateProcessing):
        return [number for tokens in processor.special_tokens.values() for number in tokens.ids]
    if isinstance(processor, BertProcessing):
        return [part for part in (*processor.sep, *processor.cls) if isinstance(part, int)]
    return []


# What lcl_core.data.tokenizer makes of CLIP's vocabulary, and of one that was learnt on a corpus.
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_READ_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def _lcl_tokenizer(pattern: str, behavior: str, invert: bool, normalizer: Any, decoder: Any) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}
    return {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None, "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _BYTES]}, "decoder": decoder,
    }  # fmt: skip


_WORD_ENDS = {"type": "Replace", "pattern": {"String": "</w>"}, "content": " "}
LCL_TOKENIZERS = (
    _lcl_tokenizer(SPACED_PATTERN, "Isolated", False, {"type": "Prepend", "prepend": " "}, _READ_BYTES),
    _lcl_tokenizer(CLIP_PATTERN, "Removed", True, None, {"type": "Sequence", "decoders": [_READ_BYTES, _WORD_ENDS]}),
)


def check_lcl_tokenizer(path: Path, rows: int, specials: Mapping[str, int]) -> None:
    """A tokenizer of ours: one of two forms, whatever its words, with the ids of ``specials`` {name: id}.

    Raises: UserError ``encoder_unreadable``.
    """
    found = read_json_object(path, MAX_VOCABULARY)
    model, added = found.pop("model", None), found.pop("added_tokens", [])
    if found not in LCL_TOKENIZERS or added:
        names = sorted(found.keys() | LCL_TOKENIZERS[0].keys())
        differing = [name for name in names if all(found.get(name) != form.get(name) for form in LCL_TOKENIZERS)]
        what = (differing or ["added_tokens"])[0]
        reason = f"{what} is not what a tokenizer of ours has; take the file that was saved with the weights"
        raise schema_error(path, reason)
    words = check_vocabulary(path, model, rows)
    for name, number in specials.items():
        if (own := words.get(name)) != number:
            reason = f"the id of {name} is {own} here and {number} in config.json; take the files that belong together"
            raise schema_error(path, reason)
