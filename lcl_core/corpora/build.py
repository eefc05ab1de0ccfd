"""From a plan to a corpus in the project's own form."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from lcl_core.corpora.cache import Cache, Say
from lcl_core.corpora.licences import Choice
from lcl_core.corpora.notices import write_notices
from lcl_core.corpora.sources import Material, Source
from lcl_core.corpora.steps.leaks import without_leaks
from lcl_core.corpora.steps.pictures import Pictures
from lcl_core.corpora.steps.rows import Document, Pair
from lcl_core.corpora.workplace import FIGURES, Workplace, workplace
from lcl_core.errors import UserError
from lcl_core.rundir import write_json_atomically

SIDE = 128  # pixels of the longest side, unless a source has its own
_FORM = 1  # raised when the same inputs give another result


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build.

    Attributes:
        side: longest side of a picture, px.
        licences: which works are taken.
    """

    sources: tuple[Source, ...]
    side: int = SIDE
    licences: Choice = "any"


def build(plan: Plan, cache: Cache, target: Path, say: Say) -> dict[str, Any]:
    """Make the corpus at ``target``, a folder that appears only when all is done; its figures.

    An interrupted build goes on after the sources that it had finished. The same packages give the same corpus.

    Raises: UserError ``target_exists``, ``build_running``, ``nothing_chosen``, ``packages_missing``, ``missing_extra``…
    """
    with workplace(target) as place:
        figures = build_in(place, plan, cache, say)
        place.publish(target)
    return figures


def build_in(place: Workplace, plan: Plan, cache: Cache, say: Say) -> dict[str, Any]:
    """The corpus in its workplace; its figures."""
    sources = [source for source in plan.sources if source.has(plan.licences)]
    if not sources:
        message = f"none of the chosen sources has works with {plan.licences} licences"
        raise UserError(message, code="nothing_chosen", field="licence")
    cache.require([package for source in sources for package in source.needs(plan.licences)])
    files: dict[str, Path] = {}
    for source in sources:
        files |= {package.name: cache.files_of(package) for package in source.needs(plan.licences)}
        started, figures = time.monotonic(), place.done(source.name, _key(source, plan))
        if figures is None:
            figures = _build_source(place, source, plan, files)
        say(f"{source.name}: {_told(figures)}, {time.monotonic() - started:.1f} s")
    write_notices(place.folder, sources, files, plan.licences)
    figures = place.assemble([source.name for source in sources])
    write_json_atomically(place.folder / FIGURES, figures)
    return figures


def _build_source(place: Workplace, source: Source, plan: Plan, files: dict[str, Path]) -> dict[str, Any]:
    place.begin(source.name)
    pictures = Pictures(place.images, plan.side)
    built = source.build(Material(files, pictures, plan.licences))
    pairs = without_leaks(built.pairs, place.images)
    figures = {
        "pictures": len(pictures),
        "leaks": len(built.pairs) - len(pairs),
        **_counts(pairs, built.documents),
    }
    place.finish(source.name, _key(source, plan), pairs, built.documents, figures)
    return figures


def _counts(pairs: Sequence[Pair], documents: Sequence[Document]) -> dict[str, Any]:
    return {
        "pairs": dict(sorted(Counter(pair.split for pair in pairs).items())),
        "documents": dict(sorted(Counter(document.split for document in documents).items())),
        "placed": sum(len(document.pictures) for document in documents),
        "sentences": sum(len(document.sentences) for document in documents),
        "words": sum(len(sentence.split()) for document in documents for sentence in document.sentences),
    }


def _told(figures: dict[str, Any]) -> str:
    pairs, documents = (sum(figures[name].values()) for name in ("pairs", "documents"))
    return f"{figures['pictures']:,} pictures, {pairs:,} pairs, {documents:,} documents"


def _key(source: Source, plan: Plan) -> str:
    """Stands for everything that the source's part of the corpus depends on."""
    facts = {
        "form": _FORM,
        "packages": [package.sha256 for package in source.needs(plan.licences)],
        "side": plan.side,
        "licences": plan.licences,
        "pillow": PIL.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
