"""The corpus that a spec names: a registered one, or what lies at a path in whatever format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.paths import is_url, resolve_allowed
from lcl_core.data.corpus.base import open_corpus
from lcl_core.data.formats.base import FormatReader
from lcl_core.data.formats.registry import open_reader
from lcl_core.specs.corpus_jobs import CorpusSpec


def open_source(spec: CorpusSpec, datasets: Mapping[str, str], roots: Sequence[str] | None = None) -> Any:
    """An open corpus, or a reader.

    Args:
        datasets: paths of registered ones by name.
        roots: where files that options name may lie; None: anywhere.

    Raises: UserError ``unknown_dataset``, ``path_forbidden``, or what opening it raises.
    """
    if spec.dataset is not None:
        if spec.dataset not in datasets:
            message = f"dataset {spec.dataset!r} is not registered; register it or choose another"
            raise UserError(message, code="unknown_dataset", field="dataset")
        return open_corpus(datasets[spec.dataset])
    assert spec.path is not None, "a spec names one of the two"
    if spec.format == "auto":
        try:
            return open_corpus(spec.path)
        except UserError as error:
            if error.code != "corpus_unreadable" or is_url(spec.path):
                error.field = "path"
                raise
    reader = _open_format(spec, spec.path)
    if roots is not None:
        _check_options(reader, [Path(root) for root in roots if not is_url(root)])
    return reader


def _check_options(reader: FormatReader[Any], roots: Sequence[Path]) -> None:
    """Raises: UserError for an option that names a file outside ``roots``."""
    for name, value in reader.options:
        if isinstance(value, Path):
            resolve_allowed(value, roots, f"options.{name}")


def _open_format(spec: CorpusSpec, path: str) -> FormatReader[Any]:
    """Raises: UserError whose field is the spec's."""
    try:
        return open_reader(path, spec.format, **spec.options)
    except UserError as error:
        if error.code == "bad_option":
            error.field = f"options.{error.field}"
        raise
