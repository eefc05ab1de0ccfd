"""Full-text search of a collection's captions by BM25, and its fusion with a search by vectors. Imports no torch.

The index is SQLite's FTS5 in a temporary database, which SQLite keeps in memory and, beyond some megabytes, in a file
that is gone with the process. Each process makes it, ahead of the first search or with it: no collection has to be
written anew. English endings are cut off (Porter), accents and case do not count. Letters, digits and combining marks
are the parts of a word, however Unicode composes them (NFC).
"""

from __future__ import annotations

import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import regex

from lcl_core.common.errors import UserError

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
_KEYS = 1 << 64

Key = TypeVar("Key")
Matches = list[tuple[int, float]]  # key and BM25
Texts = Iterable[tuple[int, str]]  # key, a number of 64 bits without sign, and text


class FullTextIndex:
    """Thread-safe. A text that was added stays: whoever searches leaves out what the collection has lost since.

    Args:
        texts: those to begin with, each key once.

    Raises: UserError ``full_text_unavailable`` where SQLite was built without FTS5.
    """

    def __init__(self, texts: Texts) -> None:
        self._lock = threading.RLock()  # a search that is given up may be closed while this thread has it
        self._count = 0
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        try:
            self._database.execute(_CREATE)
        except sqlite3.OperationalError as error:
            message = f"SQLite of this machine's Python has no full-text search ({error}); search without hybrid"
            raise UserError(message, code="full_text_unavailable", field="hybrid") from error
        self._insert(texts)

    def add(self, texts: Texts) -> None:
        """Add those that the index lacks."""
        with self._lock:
            known = "SELECT 1 FROM captions WHERE rowid = ?"
            new = {key: text for key, text in texts if not self._database.execute(known, (_signed(key),)).fetchone()}
            self._insert(new.items())

    def search(self, query: str) -> Iterator[Matches]:
        """Keys of the texts with any word of ``query`` and their BM25, best first, ``PAGE`` at a time.

        A page is read when it is asked for, so that a caller that has enough reads no more.
        """
        if words := self._counting_words(query):
            yield from ([(key % _KEYS, score) for key, score in page] for page in self._pages(_SEARCH, _any_of(words)))

    def lacking_a_word(self, query: str, found: Iterable[int], any_kept: Callable[[list[int]], bool]) -> set[int]:
        """Those of the ``found`` keys, of a search for ``query``, whose text lacks a word that counts there.

        A word that no kept text has does not count. Of a query of one word no text lacks any.

        Args:
            any_kept: whether the collection still has the text of any of these keys.
        """
        words = self._counting_words(query)
        if len(words) > 1:
            words = [word for word in words if self._is_kept(word, any_kept)]
        if len(words) < 2:
            return set()
        lacking = set(found)
        # a subset of the texts that the search has scored; a query for each key would take thirty times as long
        for page in self._pages(_MATCHES, " AND ".join(map(_quoted, words))):
            lacking.difference_update(key % _KEYS for (key,) in page)
        return lacking

    def _is_kept(self, word: str, any_kept: Callable[[list[int]], bool]) -> bool:
        pages = self._pages(_MATCHES, _any_of([word]))
        return any(any_kept([key % _KEYS for (key,) in page]) for page in pages)

    def _pages(self, query: str, words: str) -> Iterator[list[Any]]:
        """Rows of a query; the lock is free between the pages."""
        with self._lock:
            cursor = self._execute(query, words)
            page = cursor.fetchmany(PAGE)
        try:
            while page:
                yield page
                with self._lock:
                    page = cursor.fetchmany(PAGE)
        finally:
            with self._lock:
                cursor.close()

    def _execute(self, query: str, *values: str | int) -> sqlite3.Cursor:
        return self._database.execute(query, values)

    def _insert(self, texts: Texts) -> None:
        # in order: FTS5 writes a segment whenever a row number is no greater than the one before
        rows = sorted((_signed(key), _normalised(text.encode("utf-8", "replace").decode())) for key, text in texts)
        self._database.execute("BEGIN")
        self._database.executemany(_INSERT, rows)
        self._database.execute("COMMIT")
        self._count += len(rows)

    def _counting_words(self, query: str) -> list[str]:
        """The words of a query without those that are in many texts; all of them where none is left."""
        words = list(dict.fromkeys(_WORD.findall(_normalised(query))))[:MAX_WORDS]
        with self._lock:
            most = max(_MIN_COMMON, int(COMMON_SHARE * self._count))
            if len(words) < 2 or self._count <= most:
                return words
            rare = [word for word in words if self._execute(_COUNT, _any_of([word]), most).fetchone()[0] < most]
        return rare or words


class LazyFullTextIndex:
    """A FullTextIndex that is made when it is first needed, in a thread of its own: callers need not wait in theirs.

    Thread-safe.

    Args:
        texts: of the index when it is made.
    """

    def __init__(self, texts: Callable[[], Texts]) -> None:
        self._texts = texts
        self._lock = threading.Lock()
        self._future: Future[FullTextIndex] | None = None

    def start(self) -> Future[FullTextIndex]:
        """The index to come, or its error; after an error the next call has it made again."""
        with self._lock:
            if self._future is None:
                self._future = Future()
                self._future.set_running_or_notify_cancel()  # who waits no longer does not end it for others
                make = threading.Thread(target=self._make, args=(self._future,), name="lcl-captions", daemon=True)
                make.start()
            return self._future

    def _make(self, future: Future[FullTextIndex]) -> None:
        try:
            future.set_result(FullTextIndex(self._texts()))
        except Exception as error:
            with self._lock:
                self._future = None
            future.set_exception(error)


def fuse_ranks(
    near: Mapping[Key, float], matching: Mapping[Key, float], partial: Container[Key] = frozenset()
) -> list[Key]:
    """Reciprocal rank fusion: a ranking adds 1 / (``RANK_CONSTANT`` + rank) to each of its ids.

    Args:
        near, matching: {id or number: score}, best first: by vectors, and by words. Equal scores have the same rank.
        partial: ids to which ``matching`` adds ``PARTIAL_WEIGHT`` times as much.

    Returns: the ids of both rankings, best first; equal ones in the order of the rankings.
    """
    fused = dict(_reciprocal_ranks(near))
    for item, share in _reciprocal_ranks(matching):
        fused[item] = fused.get(item, 0.0) + share * (PARTIAL_WEIGHT if item in partial else 1.0)
    return sorted(fused, key=lambda item: -fused[item])


def _reciprocal_ranks(ranking: Mapping[Key, float]) -> Iterator[tuple[Key, float]]:
    rank, before = 0, None
    for at, (item, score) in enumerate(ranking.items(), start=1):
        if score != before:
            rank, before = at, score
        yield item, 1 / (RANK_CONSTANT + rank)


def _normalised(text: str) -> str:
    """As texts are indexed and searched."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFC", text))


def _signed(key: int) -> int:
    """As SQLite numbers rows."""
    return key - _KEYS if key >= _KEYS // 2 else key


def _any_of(words: Sequence[str]) -> str:
    return " OR ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """For a query of FTS5: a phrase where its tokenizer cuts the word. No word has quotes, so that none is escaped."""
    return f'"{word}"'
