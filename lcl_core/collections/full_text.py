"""Full-text search of a collection's captions by BM25, and its fusion with a search by vectors. Imports no torch.

The index is SQLite's FTS5. English endings are cut off (Porter), accents and case do not count. Letters, digits and
combining marks are the parts of a word, however Unicode composes them (NFC).

``fold`` reads a query in plain English. Other languages pass as they are: hardly any of their words are in its lists.
"""

from __future__ import annotations

import sqlite3
import threading
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import regex

from lcl_core.collections.file_format import ReadOnlyDatabase

RANK_CONSTANT = 60  # of reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009
PARTIAL_WEIGHT = 0.5  # of a text that lacks some of the query's words: a "police car" is weak evidence of a red car
MAX_WORDS = 64  # of a query, the first
PAGE = 1000  # matches that are read at once
COMMON_SHARE = 0.1  # a word of so many of the texts does not count beside rarer ones
_MIN_COMMON = 1000  # texts: a word of fewer costs no time
# a sign of which only marks are left, such as an emoji's, is no word
_WORD = regex.compile(r"[\p{M}_]*[\p{L}\p{N}][\p{L}\p{N}\p{M}_]*")
# soft hyphens, joiners and variation selectors, with which and without which a word is the same
_INVISIBLE = regex.compile("[\u00ad\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"
_CREATE = f"""CREATE VIRTUAL TABLE captions USING fts5(text, content='', tokenize="{_TOKENIZER}")"""
_INSERT = "INSERT INTO captions (rowid, text) VALUES (?, ?)"
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM captions WHERE captions MATCH ? LIMIT ?)"
_SEARCH = "SELECT rowid, -rank FROM captions WHERE captions MATCH ? ORDER BY rank, rowid"
_MATCHES = "SELECT rowid FROM captions WHERE captions MATCH ?"
_HAS = "SELECT 1 FROM captions WHERE captions MATCH ? AND rowid = ?"
_REQUEST = regex.compile(
    r"(please |(can|could) you |i (want|need) )?(show me|find me|give me|find|search for|look for|looking for)[ :]+"
    r"|((a|an|the|some) )?(picture|photo|photograph|image|drawing)s? (of|with|showing) "
)
_ARTICLES = frozenset(("a", "an", "the", "some"))
_FUNCTION_WORDS = """
about am and any are as at be been being by can did do does for from had has have he her here his i in into is it its me
my of on onto or our she that their them there these they this those to us was we were what when where which who whose
will with you your
"""
FUNCTION_WORDS = _ARTICLES | frozenset(_FUNCTION_WORDS.split())
EXCLUSIONS = frozenset(("no", "not", "without"))

Key = TypeVar("Key")
Matches = list[tuple[int, float]]  # key and BM25
Texts = Iterable[tuple[int, str]]  # key, a number of 64 bits with sign, and text


class FoldedQuery(NamedTuple):
    """What a query is read as.

    Attributes:
        text: without requests and articles, for the encoder. With the mean of both texts' vectors no more of forty
            queries found what they name, and queries with an article found other images than those without.
        words: those of ``text`` that captions are searched for.
        exclusions: words of it that are not understood: nothing is left out for them.
    """

    text: str
    words: str
    exclusions: list[str]


def fold(query: str) -> FoldedQuery:
    """A query in quotes is taken literally, as is one of which nothing would be left."""
    text = " ".join(unicodedata.normalize("NFC", query).split())
    if len(text) > 2 and text[0] in '"“' and text[-1] in '"”':
        return FoldedQuery(text[1:-1], text[1:-1], [])
    text = text.rstrip(".!?,;: ") or text
    while (request := _REQUEST.match(text.casefold())) and len(request[0]) < len(text):
        text = text[request.end() :]
    text = _without(_ARTICLES, text)
    exclusions = [word for word in text.casefold().split() if word in EXCLUSIONS]
    return FoldedQuery(text, _without(FUNCTION_WORDS, text), exclusions)


def _without(words: frozenset[str], text: str) -> str:
    """``text`` itself if nothing would be left."""
    return " ".join(word for word in text.split() if word.casefold() not in words) or text


def write_index(path: Path, texts: Texts) -> None:
    """``texts``: in the order of their keys: FTS5 writes a segment whenever one is no greater than the one before."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")  # flushed when it is whole
        database.execute("BEGIN")
        database.execute(_CREATE)
        database.executemany(_INSERT, ((key, _normalised(text)) for key, text in texts))
        database.execute("COMMIT")
    finally:
        database.close()


class FullTextIndex:
    """The index in a file, and texts that are added in memory. Thread-safe.

    A text that was added stays: whoever searches leaves out what the collection has lost since.
    """

    def __init__(self, path: Path, count: int) -> None:
        """``count``: of its texts."""
        self._lock = threading.RLock()  # a search that is given up may be closed while this thread has it
        self._count = count
        self._added: set[int] = set()
        self._database = ReadOnlyDatabase(path).connection

    def add(self, texts: Mapping[int, str]) -> None:
        """Add those that were not added before; the file has none of them."""
        with self._lock:
            new = sorted((key, _normalised(text)) for key, text in texts.items() if key not in self._added)
            if not new:
                return
            if not self._added:  # a copy, which SQLite keeps in memory and, beyond some megabytes, in a temporary file
                copy = sqlite3.connect("", check_same_thread=False, isolation_level=None)
                self._database.backup(copy)
                self._database = copy
            self._database.execute("BEGIN")
            self._database.executemany(_INSERT, new)
            self._database.execute("COMMIT")
            self._added.update(key for key, _ in new)
            self._count += len(new)

    def search(self, query: str) -> Iterator[Matches]:
        """Keys of the texts with any word of ``query`` and their BM25, best first, ``PAGE`` at a time.

        A page is read when it is asked for, so that a caller that has enough reads no more.
        """
        if words := self._counting_words(query):
            yield from self._pages(_SEARCH, " OR ".join(map(_quoted, words)))

    def lacking_a_word(self, query: str, found: Iterable[int]) -> set[int]:
        """Those of the ``found`` keys, of a search for ``query``, whose text lacks a word that counts there.

        Of a query of one word no text lacks any.
        """
        words = self._counting_words(query)
        if len(words) < 2:
            return set()
        lacking = set(found)
        # a subset of the texts that the search has scored; a query for each key would take thirty times as long
        for page in self._pages(_MATCHES, " AND ".join(map(_quoted, words))):
            lacking.difference_update(key for (key,) in page)
        return lacking

    def select_words(self, query: str, keys: Iterable[int]) -> dict[int, list[str]]:
        """Of each key the words of ``query`` that count and that its text has."""
        words = self._counting_words(query)
        with self._lock:
            has = self._database.execute
            return {key: [word for word in words if has(_HAS, (_quoted(word), key)).fetchone()] for key in keys}

    def _pages(self, query: str, words: str) -> Iterator[list[Any]]:
        """Rows of a query; the lock is free between the pages."""
        with self._lock:
            cursor = self._database.execute(query, (words,))
            page = cursor.fetchmany(PAGE)
        try:
            while page:
                yield page
                with self._lock:
                    page = cursor.fetchmany(PAGE)
        finally:
            with self._lock:
                cursor.close()

    def _counting_words(self, query: str) -> list[str]:
        """The words of a query without those that are in many texts, or in none; all of them where none is left."""
        words = list(dict.fromkeys(_WORD.findall(_normalised(query))))[:MAX_WORDS]
        if len(words) < 2:
            return words
        with self._lock:
            most = max(_MIN_COMMON, int(COMMON_SHARE * self._count))
            counts = [self._database.execute(_COUNT, (_quoted(word), most)).fetchone()[0] for word in words]
        return [word for word, count in zip(words, counts, strict=True) if 0 < count < most] or words


def fuse_ranks(
    near: Mapping[Key, float], matching: Mapping[Key, float], partial: Container[Key] = frozenset()
) -> list[Key]:
    """Reciprocal rank fusion: a ranking adds 1 / (``RANK_CONSTANT`` + rank) to each of its ids.

    Args:
        near, matching: {id or number: score}, best first: by vectors, and by words. Equal scores have the same rank.
        partial: ids to which ``matching`` adds ``PARTIAL_WEIGHT`` times as much.

    Returns: the ids of both rankings, best first; equal ones in the order of the rankings.
    """
    fused = {item: 1 / (RANK_CONSTANT + rank) for item, rank in ranks(near).items()}
    for item, rank in ranks(matching).items():
        share = PARTIAL_WEIGHT if item in partial else 1.0
        fused[item] = fused.get(item, 0.0) + share / (RANK_CONSTANT + rank)
    return sorted(fused, key=lambda item: -fused[item])


def ranks(scores: Mapping[Key, float]) -> dict[Key, int]:
    """Of {item: score}, best first, the rank of each, from 1; equal scores have the same."""
    found: dict[Key, int] = {}
    rank, before = 0, None
    for at, (item, score) in enumerate(scores.items(), start=1):
        if score != before:
            rank, before = at, score
        found[item] = rank
    return found


def _normalised(text: str) -> str:
    """As texts are indexed and searched."""
    storable = text.encode("utf-8", "replace").decode()  # without half surrogate pairs
    return _INVISIBLE.sub("", unicodedata.normalize("NFC", storable))


def _quoted(word: str) -> str:
    """For a query of FTS5: a phrase where its tokenizer cuts the word. No word has quotes, so that none is escaped."""
    return f'"{word}"'
