"""Builders of a pre-training run: corpora, tokenizer, configuration and model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from lcl_core.common.disk_cache import FolderCache, data_cache_bytes
from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.files import write_atomically
from lcl_core.common.run_dir import RunDir
from lcl_core.data.corpus.base import CaptionPairs, Corpus, Documents
from lcl_core.data.corpus.file_store import FolderStore
from lcl_core.data.corpus.open import open_corpus
from lcl_core.data.records import CaptionPair, ImageSubject, TextSegment, parse_segments
from lcl_core.data.sampling.captions import composed_terms
from lcl_core.data.sampling.resident_images import open_resident_images, resident_sources
from lcl_core.data.sampling.shuffle import FeistelPermutation
from lcl_core.data.tokenizer import (
    Tokenizer,
    check_known_form,
    clip_tokenizer,
    load_tokenizer,
    tokenizer_from_json,
    train_bpe,
)
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.specs.data import SourceSpec
from lcl_core.specs.pretrain import METHODS, PretrainSpec
from lcl_core.train.distributed import SECONDS_BETWEEN_LINES, RankGroup


def open_corpora(spec: PretrainSpec, paths: dict[str, str]) -> dict[str, Corpus]:
    """The corpora that the spec names."""
    corpora: dict[str, Corpus] = {}
    for field, name in spec.references().datasets.items():
        if name not in paths:
            message = f"dataset {name!r} is not registered; register it or choose another"
            raise UserError(message, code="not_found", field=field)
        corpora[name] = corpora.get(name) or open_corpus(paths[name])
    return corpora


@contextmanager
def open_resident(
    spec: PretrainSpec, corpora: Mapping[str, Corpus], run_dir: RunDir, ranks: RankGroup
) -> Iterator[dict[str, Path]]:
    """Folders of decoded images by dataset, empty without ``data.resident``. All ranks call this.

    On each machine one rank creates them and the others wait. They are in the cache that runs
    share, or else in the run's own folder, and are kept until they are evicted; a resumed run that finds none creates
    the same bytes. Only a corpus that is registered without its hash is read to compute it.

    Raises (on entry): UserError ``too_large`` or ``bad_setting``; JobCancelled.
    """
    if not spec.data.resident:
        yield {}
        return
    run = run_dir.read_run()
    folders: dict[str, Path] = {}
    with ExitStack() as stack:

        def content_hashes() -> dict[str, str]:
            known = run.get("dataset_hashes", {})
            names = sorted({source.dataset for source in spec.data.sources}) if ranks.rank == 0 else []
            advance = progress_line(spec, run_dir, ranks, "reading datasets")
            return {name: known.get(name) or corpora[name].content_hash(advance) for name in names}

        def decode() -> None:
            sources = resident_sources(spec.data, spec.model.image_size, corpora, hashes)
            disk = FolderCache(Path(run.get("cache") or run_dir.path / "cache") / "resident", data_cache_bytes())
            advance = progress_line(spec, run_dir, ranks, "decoding images")
            folders.update(stack.enter_context(open_resident_images(sources, disk, advance)))

        hashes = ranks.run_on_all_ranks(content_hashes)[0]
        ranks.run_on_all_ranks(decode)
        yield folders


def progress_line(
    spec: PretrainSpec, run_dir: RunDir, ranks: RankGroup, phase: str, step: int = 0
) -> Callable[[], None]:
    """A function to call after every small part of long work.

    It raises JobCancelled in a run that is to stop, and on the first rank writes a metric line now and then, since a
    silent run is treated as hung.
    """
    written = time.monotonic()

    def advance() -> None:
        nonlocal written
        run_dir.raise_if_stopped()
        if ranks.rank == 0 and time.monotonic() - written > SECONDS_BETWEEN_LINES:
            written = time.monotonic()
            run_dir.append_metrics(step=step, total_steps=spec.steps, phase=phase)

    return advance


MAX_TOKENIZER_BYTES = 64 << 20
TOKENIZER_ITEMS = 50_000  # read to train a tokenizer; of several sources equally many each


def prepare_tokenizer(spec: PretrainSpec, corpora: dict[str, Corpus], run_dir: RunDir, ranks: RankGroup) -> Tokenizer:
    """The tokenizer, trained or copied once by rank 0 and kept in ``RUN_DIR/tokenizer.json``. All ranks call this."""
    if spec.tokenizer.kind == "clip":
        return clip_tokenizer()
    file = run_dir.tokenizer_file

    def train_once() -> None:
        if ranks.rank == 0 and not file.exists():
            write_atomically(file, build_tokenizer(spec, corpora).to_json())

    ranks.run_on_all_ranks(train_once)
    return load_tokenizer(file)


def build_tokenizer(spec: PretrainSpec, corpora: dict[str, Corpus], items: int | None = TOKENIZER_ITEMS) -> Tokenizer:
    """CLIP's, that of ``tokenizer.path``, or byte-pair merges learnt from texts of the sources.

    Args:
        items: documents and captioned images that are read, a fixed sample where there are more; none: all.
    """
    if spec.tokenizer.kind == "clip":
        return clip_tokenizer()
    if spec.tokenizer.path is not None:
        return read_shared_tokenizer(spec.tokenizer.path)
    quota = None if items is None else max(items // len(spec.data.sources), 1)
    texts = [text for source in spec.data.sources for text in _sample_texts(source, corpora[source.dataset], quota)]
    return train_bpe(texts, spec.tokenizer.vocab_size)


def read_shared_tokenizer(path: str) -> Tokenizer:
    """A ``tokenizer.json``, or that of a folder."""
    real = Path(path).resolve()
    folder, name = (real, "tokenizer.json") if real.is_dir() else (real.parent, real.name)
    try:
        tokenizer = tokenizer_from_json(FolderStore(folder).read(name, MAX_TOKENIZER_BYTES).decode("utf-8"))
        check_known_form(tokenizer)
    except (UserError, UnicodeDecodeError) as error:
        message = error.message if isinstance(error, UserError) else "the file is not UTF-8"
        message = f"{message}; name the tokenizer.json of a run, or its folder"
        raise UserError(message, code="bad_tokenizer", field="tokenizer.path", file=folder / name) from error
    return tokenizer


def _sample_texts(source: SourceSpec, corpus: Corpus, quota: int | None) -> list[str]:
    """Texts of at most ``quota`` items, of those that can be read."""
    items: Documents | CaptionPairs = corpus.pairs(source.split) if source.view == "pairs" else corpus.documents
    chosen: Iterable[int] = range(len(items))
    if quota is not None and quota < len(items):
        order = FeistelPermutation(len(items))
        chosen = sorted(order[number] for number in range(quota))

    def read(index: int) -> list[str]:
        try:
            item = items.describe(index)
        except StoreError:
            raise
        except UserError:  # training leaves it out too, and counts it
            return []
        if source.captions != "as_written":
            return _drawn_texts(item if isinstance(item, CaptionPair) else corpus.with_subjects(item))
        return list(item.captions) if isinstance(item, CaptionPair) else _document_texts(item)

    with ThreadPoolExecutor(corpus.concurrent_reads) as threads:
        return [text for texts in threads.map(read, chosen) for text in texts]


def _drawn_texts(item: CaptionPair | dict[str, Any]) -> list[str]:
    """Texts as written, and the terms of which captions are composed."""
    if isinstance(item, CaptionPair):
        return [*item.captions, *composed_terms(item.subject)]
    images = item["segments"] if "segments" in item else item.get("image_info", ())
    subjects = [ImageSubject.from_json(image.get("subject")) for image in images]
    return [*_document_texts(item), *(term for subject in subjects for term in composed_terms(subject))]


def _document_texts(document: dict[str, Any]) -> list[str]:
    """Texts of a document; of one with segments, theirs."""
    if "segments" not in document:
        return document["text_list"]
    return [segment.text for segment in parse_segments(document) if isinstance(segment, TextSegment)]


def build_config(spec: PretrainSpec, tokenizer: Tokenizer) -> LCLConfig:
    """The model's configuration for this spec and vocabulary.

    It has the weights of the two losses of :meth:`LCLModel.forward`; 0 for a loss that the objective lacks.
    """
    specials, weights = tokenizer.specials, spec.objective.weights
    return LCLConfig(
        **spec.model.model_dump(exclude={"init", "freeze"}),
        vocab_size=tokenizer.vocab_size,
        sot_token_id=specials.sot,
        eot_token_id=specials.eot,
        img_token_id=specials.img,
        soi_token_id=specials.soi,
        eoi_token_id=specials.eoi,
        contrastive_weight=weights.get("contrastive", 0.0),
        generation_weight=weights.get("generation", 0.0),
        text_attention=METHODS[spec.objective.name].text_attention,
        numerics=spec.numerics,
    )


def build_model(config: LCLConfig, seed: int) -> LCLModel:
    """Fresh weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LCLModel(config)
