"""What ``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json`` may say.

Left out, and so refused, is whatever names code (``auto_map``), other files or a template that is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from lcl_core.interop.closed import Word, one_of, validated
from lcl_core.interop.small_files import read_object
from lcl_core.interop.vocabulary_schema import MAX_ADDED, MAX_WORD, check_words

SETTINGS, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMES = (
    *("BertTokenizer", "CLIPTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "GPT2Tokenizer", "GemmaTokenizer"),
    *("MPNetTokenizer", "RobertaTokenizer", "SiglipTokenizer", "T5Tokenizer", "XLMRobertaTokenizer"),
)
CLASSES = (*NAMES, *(f"{name}Fast" for name in NAMES), "PreTrainedTokenizerFast", "TokenizersBackend")
_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Content = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
_Side = Literal["left", "right"]


class Described(BaseModel):
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


_Token = _Content | Described
_Several = (
    Annotated[list[_Token], Field(max_length=MAX_ADDED)] | Annotated[dict[Word, _Token], Field(max_length=MAX_ADDED)]
)
_FIELDS: dict[Any, tuple[str, ...]] = {
    _Token: ("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"),
    _Several: ("additional_special_tokens", "extra_special_tokens"),
}
_MORE: dict[Any, tuple[str, ...]] = {
    bool: (
        *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "do_basic_tokenize"),
        *("do_lower_case", "is_local", "local_files_only", "legacy", "split_special_tokens", "strip_accents"),
        *("tokenize_chinese_chars", "trim_offsets", "use_fast"),
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
    Word: ("name_or_path", "processor_class", "special_tokens_map_file"),  # words: nothing is opened by them
    Annotated[dict[str, Described], Field(max_length=MAX_ADDED)]: ("added_tokens_decoder",),
    Annotated[dict[str, Any], Field(max_length=0)]: ("sp_model_kwargs",),
    Annotated[list[str], Field(max_length=0)]: ("never_split", "model_specific_special_tokens"),
    Annotated[list[Literal["attention_mask", "input_ids", "token_type_ids"]], Field(max_length=3)]: (
        "model_input_names",
    ),
    None: ("chat_template", "merges_file", "tokenizer_file", "vocab_file"),
}  # fmt: skip


def _model(name: str, *groups: dict[Any, tuple[str, ...]]) -> Any:
    fields: Any = {
        each: (kind | None if kind else None, None)
        for group in groups
        for kind, names in group.items()
        for each in names
    }
    return create_model(name, __config__=_CLOSED, **fields)


_Specials: Any = _model("SpecialTokens", _FIELDS)
_Settings: Any = _model("TokenizerSettings", _FIELDS, _MORE)


def check_tokenizer_settings(directory: Path, rows: int) -> None:
    """Raises: UserError ``encoder_unreadable`` naming the file and the field."""
    if (path := directory / SETTINGS).is_file():
        validated(_Settings, read_object(path), path)
    if (path := directory / SPECIALS).is_file():
        validated(_Specials, read_object(path), path)
    if (path := directory / ADDED).is_file():
        found = read_object(path)
        if found:
            check_words(path, found, rows)
