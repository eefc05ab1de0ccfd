"""Opening a corpus: any form by its path, or what a spec names, registered or in whatever format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcl_core.common.errors import NotFound, UserError
from lcl_core.common.paths import is_url, resolve_allowed
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.corpus.file_corpus import FileCorpus
from lcl_core.data.formats import open_reader
from lcl_core.data.formats.base import ReaderOptions, parse_options
from lcl_core.data.formats.remote_files import open_remote_files
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards.format import HEADER
from lcl_core.data.shards.sharded_corpus import ShardedCorpus, ShardedRecords
from lcl_core.parts import PartSource
from lcl_core.specs.corpus_jobs import CorpusSpec


def open_corpus(path: str | Path) -> Corpus:
    """Open a folder, a zip, or shards in a folder or at any fsspec URL.

    Raises: UserError ``not_found`` or ``corpus_unreadable``, naming it.
    """
    if is_url(str(path)) or os.path.isfile(Path(path) / HEADER):
        return ShardedCorpus.open(path)
    return FileCorpus.open(Path(path))


def _open_own_form(path: str) -> Corpus | None:
    """The corpus at a path of a spec; None: files of another form. Raises: UserError whose field is the path."""
    try:
        return open_corpus(path)
    except UserError as error:
        if error.code != "corpus_unreadable" or is_url(path):
            error.field = "path"
            raise
        return None


def open_source(spec: CorpusSpec, datasets: Mapping[str, str], roots: Sequence[str] | None = None) -> Any:
    """An open corpus, or a format reader, of files on disk or behind a URL.

    Args:
        datasets: paths of registered ones by name.
        roots: folders in which files must lie that are read beside the path; None: anywhere.

    Raises: UserError ``not_found``, ``invalid_value``, or what opening it raises; its field is the spec's.
    """
    if spec.dataset is not None:
        if spec.dataset not in datasets:
            message = f"dataset {spec.dataset!r} is not registered; register it or choose another"
            raise NotFound(message, field="dataset")
        return open_corpus(datasets[spec.dataset])
    assert spec.path is not None, "a spec names one of the two"
    corpus = _open_own_form(spec.path) if spec.format == "auto" else None
    try:
        if corpus is not None:
            form = "shards" if isinstance(corpus, ShardedCorpus) else "native"
            parse_options(ReaderOptions, spec.options, form)  # there is none
            return corpus
        if is_url(spec.path):
            reader: Any = open_remote_files(spec.path, spec.format, spec.options)
        else:
            reader = open_reader(spec.path, spec.format, **spec.options)
    except UserError as error:
        if error.code == "bad_option":
            error.field = f"options.{error.field}"
        raise
    if roots is not None:
        folders = [Path(root) for root in roots if not is_url(root)]
        for name, path in reader.paths_beside():
            resolve_allowed(path, folders, f"options.{name}")
    return reader


def part_source(source: Any) -> PartSource[Record | BadItem]:
    """The records of an open corpus, or of a reader."""
    if isinstance(source, ShardedCorpus):
        return ShardedRecords(source)
    if isinstance(source, FileCorpus):
        return open_reader(source.path, "native")
    reader: PartSource[Record | BadItem] = source
    return reader


def count_items(source: Any) -> int | None:
    """Number of records of a corpus; None for a reader, which would have to walk through it."""
    if isinstance(source, ShardedCorpus):
        return len(source.index)
    if not isinstance(source, FileCorpus):
        return None
    return sum(len(rows) for rows in (source.documents, source.all_pairs, source.held_out_documents))
