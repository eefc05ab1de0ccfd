"""What searches and captions of an encoder are worth: images found by name and by keyword, nouns in captions.

* By name, for the images of each team of a split: share of images whose name finds them among the first five of all of
  the team's (text to image), and whose own name is among the first five names (image to text).
* By keyword: mean precision of the first eight images, over the terms that the captions of at least eight images list
  after the name (``NAME: a, b``). An image without the term is wrong even where its name has it.
* By attribute: the same over an attribute and a keyword, such as ``red car``; right are images that have both.
* Captions: share of greedy captions with a content word of the image's true name, beside the same captions against the
  name of another image.

``untrained`` has the same figures of the same network with random weights.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.corpus.base import SAMPLE_CORPUS, Corpus
from lcl_core.data.records import CaptionPair
from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.captioning import Captioner
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.pretrained import pretrained_encoders
from lcl_core.specs.evaluate import DecodingSpec

FIRST_NAMES, FIRST_IMAGES, LEAST_CARRIED = 5, 8, 8
_BATCH = 256
Item = TypeVar("Item")
_WORD = re.compile(r"[a-z]{3,}")
# words of names that are no nouns of what is shown: function words, colours, sizes, states
_NO_CONTENT = frozenset(
    (
        *("and", "for", "from", "not", "the", "with", "without", "over", "under", "left", "right", "down", "upwards"),
        *("black", "blue", "brown", "dark", "green", "grey", "light", "orange", "pink", "purple", "red", "white"),
        *("yellow", "large", "medium", "small", "big", "open", "closed", "old", "new", "hot", "cold", "high", "low"),
    )
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", type=Path, help="directory of an encoder; without it, the one that ships")
    parser.add_argument("--corpus", type=Path, default=SAMPLE_CORPUS, help="captioned images to find by name")
    parser.add_argument("--splits", nargs="+", default=["test_vendor"])
    parser.add_argument("--teams", nargs="+", help="vendors of these splits; all where none is named")
    parser.add_argument("--collection", type=Path, default=SAMPLE_CORPUS, help="captioned images to find by keyword")
    parser.add_argument("--untrained", action="store_true", help="the same network with random weights, too")
    parser.add_argument("--no-captions", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the object on one line")


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    shipped = (each.directory for each in pretrained_encoders() if not each.superseded)
    directory = next(shipped) if options.encoder is None else options.encoder
    encoder = load_image_encoder(directory)
    report = {"encoder": str(directory), **measure(encoder, options)}
    if options.untrained:
        report["untrained"] = measure(encoder.random_init(), options)
    print(json.dumps(report, indent=None if options.json else 1))


@torch.inference_mode()
def measure(encoder: ImageEncoder, options: argparse.Namespace) -> dict[str, Any]:
    """Raises: UserError where the corpus has no such images, or the encoder no text tower."""
    corpus = open_corpus(options.corpus)
    teams: defaultdict[str, list[CaptionPair]] = defaultdict(list)
    for pair in corpus.all_pairs:
        team = str(pair.extra.get("vendor", pair.source))
        if pair.split in options.splits and pair.captions and team in (options.teams or [team]):
            teams[team].append(pair)
    if not teams:
        raise UserError("no image of these splits and teams has a caption", code="bad_option", field="splits")
    named = {}
    for team, pairs in teams.items():
        named[team] = by_name(encoder, corpus, pairs)
        if not options.no_captions and isinstance(encoder, Captioner):
            named[team] |= caption_figures(encoder, encoder, corpus, pairs)
    collection = open_corpus(options.collection)
    pairs = list(collection.all_pairs)
    pixels = _embedded(encoder, collection, pairs)
    figures = {"by_keyword": by_term(encoder, pixels, listed_keywords(pairs), "keywords")}
    described = described_keywords(pairs)
    if any(described):
        figures["by_attribute"] = by_term(encoder, pixels, described, "terms")
    return {"by_name": named, **figures}


def by_name(encoder: ImageEncoder, corpus: Corpus, pairs: Sequence[CaptionPair]) -> dict[str, Any]:
    """Recall among ``FIRST_NAMES`` in both directions; images of one name have it as one text."""
    own_names = [name_of(pair) for pair in pairs]
    names = sorted(set(own_names))
    own = torch.tensor([names.index(name) for name in own_names])
    scores = _embedded(encoder, corpus, pairs) @ _texts(encoder, names).T  # [images, names]
    found = scores.T.topk(min(FIRST_NAMES, len(pairs))).indices  # of each name
    text_to_image = (found[own] == torch.arange(len(pairs))[:, None]).any(1).double().mean()
    image_to_text = (scores.topk(min(FIRST_NAMES, len(names))).indices == own[:, None]).any(1).double().mean()
    return {
        "images": len(pairs),
        "names": len(names),
        "text_to_image_r5": round(text_to_image.item(), 4),
        "image_to_text_r5": round(image_to_text.item(), 4),
        "chance": round(FIRST_NAMES / len(pairs), 4),
    }


def listed_keywords(pairs: Sequence[CaptionPair]) -> list[frozenset[str]]:
    """Terms that captions list after the name (``NAME: a, b``), by image."""
    lists = ([caption.partition(": ")[2] for caption in pair.captions] for pair in pairs)
    return [frozenset(term.strip() for terms in each for term in terms.split(",")) - {""} for each in lists]


def described_keywords(pairs: Sequence[CaptionPair]) -> list[frozenset[str]]:
    """Every attribute before every keyword, by image."""
    subjects = [pair.subject for pair in pairs]
    return [
        frozenset(f"{attribute} {word}" for attribute in subject.attributes for word in subject.keywords)
        for subject in subjects
    ]


def by_term(encoder: ImageEncoder, images: Tensor, carried: Sequence[frozenset[str]], counted: str) -> dict[str, Any]:
    """Mean precision of the first ``FIRST_IMAGES`` over terms that ``LEAST_CARRIED`` images carry.

    Args:
        images: [images, D], embedded.
        counted: name of the number of terms in the figures.
    """
    counts = Counter(word for words in carried for word in words)
    terms = sorted(word for word, count in counts.items() if count >= LEAST_CARRIED)
    if not terms:
        raise UserError("too few images share a keyword", code="bad_option", field="collection")
    found = (_texts(encoder, terms) @ images.T).topk(FIRST_IMAGES).indices
    precisions = [
        np.mean([word in carried[image] for image in first]) for word, first in zip(terms, found.tolist(), strict=True)
    ]
    return {
        "images": len(images),
        counted: len(terms),
        "precision_at_8": round(float(np.mean(precisions)), 4),
        "chance": round(float(np.mean([counts[word] / len(images) for word in terms])), 4),
    }


def caption_figures(
    encoder: ImageEncoder, captioner: Captioner, corpus: Corpus, pairs: Sequence[CaptionPair]
) -> dict[str, float]:
    """Share of greedy captions that hold a content word of the name; ``chance``: of the next image's name."""
    captions: list[str] = []
    for batch in _batches(pairs):
        captions += captioner.captions(_pixels(encoder, corpus, batch), DecodingSpec(), seed=0)
    names = [content_words(name_of(pair)) for pair in pairs]
    said = [content_words(caption) for caption in captions]

    def share(true_names: Sequence[frozenset[str]]) -> float:
        hits = [bool(name & words) for name, words in zip(true_names, said, strict=True) if name]
        return round(float(np.mean(hits)), 4)

    return {"captions_with_a_word_of_the_name": share(names), "captions_chance": share([*names[1:], names[0]])}


def name_of(pair: CaptionPair) -> str:
    return pair.subject.name or pair.captions[0]


def content_words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower())) - _NO_CONTENT


def _texts(encoder: ImageEncoder, texts: Sequence[str]) -> Tensor:
    if encoder.text_encoder is None:
        raise UserError("the encoder has no text tower to search with", code="bad_option", field="encoder")
    return torch.cat([F.normalize(encoder.text_encoder.features(batch).float(), dim=-1) for batch in _batches(texts)])


def _embedded(encoder: ImageEncoder, corpus: Corpus, pairs: Sequence[CaptionPair]) -> Tensor:
    rows = []
    for batch in _batches(pairs):
        pooled, _ = encoder.encode(_pixels(encoder, corpus, batch))
        assert pooled is not None  # an encoder with a text tower has a common space
        rows.append(F.normalize(pooled.float(), dim=-1))
    return torch.cat(rows)


def _pixels(encoder: ImageEncoder, corpus: Corpus, pairs: Sequence[CaptionPair]) -> Tensor:
    return encoder.preprocess([corpus.read_image(pair.image) for pair in pairs])


def _batches(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
