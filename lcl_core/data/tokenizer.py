"""Byte-pair tokenizers on Hugging Face ``tokenizers``: CLIP's, or one trained on the corpus; CLIP's text cleaning.

The five special tokens are vocabulary entries that no merge produces, so no text becomes one: image and document
tokens come from the layout alone. (The authors match the literal text, lcl-spec section 8.7; ``neutralise=False``
does the same.)
"""

from __future__ import annotations

import gzip
import html
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lcl_core.common.errors import UserError, tokenizer_errors


def clean_text(text: str) -> str:
    """Mend mojibake, resolve HTML entities twice, collapse whitespace, lower-case."""
    # printable ASCII without entities is what most sentences are, and nothing below would change it
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


SPECIAL_NAMES = ("<start_of_text>", "<end_of_text>", "<img_placehold>", "<start_of_img>", "<end_of_img>")
PAD_NAME = "<pad>"
# lcl_core.encoders.check accepts these two in a tokenizer.json; a test compares them
CLIP_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# as CLIP's, but a word keeps the space before it, so that decoding gives the spacing back
SPACED_PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
_CLIP_MERGES = Path(__file__).parent / "vocabulary" / "clip_merges.txt.gz"
_CLIP_SUFFIX = "</w>"
_CACHED_TEXTS = 1 << 16
_LONGEST_CACHED = 1000


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that shape a document; ``pad`` fills rows; padding is known by length, not by id."""

    sot: int
    eot: int
    img: int
    soi: int
    eoi: int
    pad: int = 0


class Tokenizer:
    """Text to ids and back. Made by :func:`clip_tokenizer`, :func:`train_bpe` or :func:`load_tokenizer`."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        vocabulary = inner.get_vocab()
        ids = [vocabulary[name] for name in SPECIAL_NAMES if name in vocabulary]
        if len(ids) != len(SPECIAL_NAMES):
            raise UserError("the tokenizer lacks the special tokens of documents", code="bad_tokenizer")
        self._inner = inner
        self.specials = SpecialTokens(*ids)
        self._special_ids = dict(zip(SPECIAL_NAMES, ids, strict=True))
        # training reads the same sentences every epoch; bounded, since a large corpus never repeats itself
        self._encode_cached: Callable[[str], tuple[int, ...]] = lru_cache(_CACHED_TEXTS)(self._encode_plain)

    def __reduce__(self) -> tuple[Callable[[str], Tokenizer], tuple[str]]:
        return tokenizer_from_json, (self.to_json(),)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the five special ones (the last) included."""
        return self._inner.get_vocab_size()

    @property
    def vocabulary(self) -> dict[str, int]:
        """{token: id}, tokens as the byte-level merges write them."""
        return self._inner.get_vocab()

    def encode(self, text: str, neutralise: bool = True) -> list[int]:
        """Ids of the cleaned text, without start and end.

        Args:
            neutralise: special tokens written out in the text are ordinary text; False: they become the
                special ids, as in the authors' code.
        """
        if not neutralise:
            return self._encode_live(clean_text(text))
        if len(text) > _LONGEST_CACHED:
            return list(self._encode_plain(text))
        return list(self._encode_cached(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens by name."""
        with tokenizer_errors():
            return self._inner.decode(list(ids), skip_special_tokens=False)

    def to_json(self) -> str:
        return self._inner.to_str()

    def save(self, path: str | Path) -> None:
        """Write a ``tokenizer.json`` that Hugging Face ``tokenizers`` reads too."""
        Path(path).write_text(self._inner.to_str(pretty=False), encoding="utf-8")

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        cleaned = clean_text(text)
        with tokenizer_errors():
            return tuple(self._inner.encode(cleaned, add_special_tokens=False).ids)

    def _encode_live(self, text: str) -> list[int]:
        """Special names match where the authors' pattern reaches them: not inside a run of punctuation."""
        import regex

        names = "|".join(map(regex.escape, SPECIAL_NAMES))
        ids: list[int] = []
        start = 0
        for found in regex.finditer(f"(?i:{names})|{CLIP_PATTERN}", text):
            if found.group() in self._special_ids:
                ids += self._encode_part(text[start : found.start()])
                ids.append(self._special_ids[found.group()])
                start = found.end()
        return ids + self._encode_part(text[start:])

    def _encode_part(self, text: str) -> list[int]:
        with tokenizer_errors():
            return self._inner.encode(text.strip(), add_special_tokens=False).ids


@cache
def clip_tokenizer() -> Tokenizer:
    """CLIP's 49,408 tokens and the three image tokens, with the authors' ids. Needs no network."""
    with gzip.open(_CLIP_MERGES, "rt", encoding="utf-8") as file:
        merges = [(first, second) for first, second in (line.split() for line in file)]
    letters = _byte_letters()
    names = letters + [letter + _CLIP_SUFFIX for letter in letters] + [first + second for first, second in merges]
    inner = tokenizers.Tokenizer(
        models.BPE(_vocabulary([*names, *SPECIAL_NAMES]), merges, end_of_word_suffix=_CLIP_SUFFIX)
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(_CLIP_SUFFIX, " ")])
    return Tokenizer(inner)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn byte-level merges from ``texts``; the same texts, in any order, give the same tokenizer.

    Args:
        texts: sentences as written; they are cleaned here.
        vocab_size: ids without the five special ones (at least 257: padding and every byte). Small corpora
            give fewer.

    Raises:
        UserError: ``bad_tokenizer`` for a size that cannot hold every byte.
    """
    letters = _byte_letters()
    if vocab_size <= len(letters):
        raise UserError(
            f"vocab_size {vocab_size} cannot hold every byte; use {len(letters) + 1} or more", code="bad_tokenizer"
        )
    learner = _space_prefixed(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD_NAME], initial_alphabet=letters, show_progress=False
    )
    learner.train_from_iterator((clean_text(text) for text in texts), trainer)
    learnt = json.loads(learner.to_str())["model"]
    # rebuilt without the trainer's added tokens, so that "<pad>" in a text is text
    names = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    merges = [(first, second) for first, second in learnt["merges"]]
    return Tokenizer(_space_prefixed(models.BPE(_vocabulary([*names, *SPECIAL_NAMES]), merges)))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read what :meth:`Tokenizer.save` wrote. Raises: UserError ``bad_tokenizer`` naming the file."""
    try:
        return tokenizer_from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the tokenizer cannot be read ({error})", code="bad_tokenizer", file=path) from error
    except UserError as error:
        raise UserError(error.message, code=error.code, file=path) from error


def tokenizer_from_json(text: str) -> Tokenizer:
    """From the text of a ``tokenizer.json``. Raises: UserError ``bad_tokenizer``."""
    try:
        inner = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"this is no tokenizer.json ({error})", code="bad_tokenizer") from error
    return Tokenizer(inner)


def check_known_form(tokenizer: Tokenizer) -> None:
    """Raises: UserError ``bad_tokenizer`` where normaliser, patterns or decoder are not those of a tokenizer made here.

    The exported encoder has the tokenizer, and only known forms are loaded there. Ids must have no gap, the special
    ones last.
    """
    inner = tokenizer._inner
    if _form(inner) not in (_form(_space_prefixed(models.BPE())), _form(clip_tokenizer()._inner)):
        message = "its normaliser, patterns or decoder are not those of a tokenizer that a run trains"
        raise UserError(message, code="bad_tokenizer")
    size = len(inner.get_vocab())
    ids = sorted(inner.get_vocab().values())
    if ids != list(range(size)) or sorted(tokenizer._special_ids.values()) != ids[-len(SPECIAL_NAMES) :]:
        message = "its ids have gaps, or the special tokens of documents are not the last ones"
        raise UserError(message, code="bad_tokenizer")


def _form(inner: tokenizers.Tokenizer) -> dict[str, Any]:
    """All of a ``tokenizer.json`` but its vocabulary and merges."""
    form: dict[str, Any] = json.loads(inner.to_str())
    form["model"] = {key: value for key, value in form["model"].items() if key not in ("vocab", "merges")}
    return form


def _space_prefixed(model: models.BPE) -> tokenizers.Tokenizer:
    """Every word, the first too, begins with its space."""
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Prepend(" ")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPACED_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return inner


def _byte_letters() -> list[str]:
    """One printable letter a byte: those that are printable by themselves, then stand-ins (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return [chr(byte) for byte in plain] + [chr(256 + n) for n in range(256 - len(plain))]


def _vocabulary(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}
