"""Captions of images: as written or composed of their names and keywords, and the terms and concepts they name."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lcl_core.data.records import CaptionPair, ImageSubject, parse_segments
from lcl_core.data.sampling.document_plan import Placement


def caption_candidates(pair: CaptionPair) -> list[str]:
    """The captions; without any, the name of the class, or else every label."""
    captions = [caption for caption in pair.captions if caption.strip()]
    labels = {kind: label for kind, label in sorted(pair.labels.items()) if label.strip()}
    return captions or ([labels["class"]] if "class" in labels else list(labels.values()))


CaptionForm = Literal["as_written", "drawn", "keyword"]
MAX_CAPTION_TERMS = 6  # of a composed caption
MAX_IMAGE_TERMS = 32  # name and keywords that are compared with captions


def draw_caption(
    draw: random.Random, written: Sequence[str], subject: ImageSubject, form: CaptionForm = "drawn"
) -> str:
    """One of four captions, equally likely: a written one; the name; one keyword; two to six of name and keywords.

    The terms of the last are in any order, with commas. Where the image lacks one of these, a keyword is used. Half of
    the names and keywords that stand alone follow an attribute ("red car") or are replaced by it, if there is any.

    Args:
        written: captions as they are; may be empty.
        subject: has keywords.
        form: ``keyword``: the name or one of the keywords, equally likely.
    """
    if form == "keyword":
        return _draw_attribute(draw, subject, draw.choice([*filter(None, (subject.name,)), *subject.keywords]))
    kind = draw.randrange(4)
    if kind == 0 and written:
        return draw.choice(written)
    if kind == 1 and subject.name:
        return _draw_attribute(draw, subject, subject.name)
    terms = list(dict.fromkeys(filter(None, (subject.name, *subject.keywords))))
    if kind < 3 or len(terms) == 1:
        return _draw_attribute(draw, subject, draw.choice(subject.keywords))
    return ", ".join(draw.sample(terms, draw.randint(2, min(len(terms), MAX_CAPTION_TERMS))))


def composed_terms(subject: ImageSubject) -> list[str]:
    """Name, keywords and attributes: what composed captions consist of. Without keywords nothing is composed."""
    terms = (subject.name, *subject.keywords, *subject.attributes) if subject.keywords else ()
    return list(dict.fromkeys(filter(None, terms)))


def _draw_attribute(draw: random.Random, subject: ImageSubject, term: str) -> str:
    """The term, or equally likely one of the attributes: three times in four before the term, else alone.

    Without attributes nothing is drawn. Alone it is a term of many images at once, so it is learnt soonest.
    """
    if not subject.attributes or draw.random() < 0.5:
        return term
    attribute = draw.choice(subject.attributes)
    return attribute if draw.random() < 0.25 else f"{attribute} {term}"


def draw_sentences(
    document: dict[str, Any], draw: random.Random, form: CaptionForm = "drawn"
) -> tuple[dict[str, Any], dict[Placement, str]]:
    """A document in which the sentence of every image with keywords is replaced by a composed caption.

    Args:
        document: as ``Corpus.with_subjects`` returns it.

    Returns:
        The document, and each matched image's own caption: its composed one, or the sentence as written. A sentence of
        several images has in the document the last one composed, which counts only where none of them is placed.

    Raises: UserError ``bad_document`` for malformed segments.
    """
    if "segments" in document:
        parse_segments(document)
        entries = list(document["segments"])
        for entry in document["segments"]:
            if (subject := ImageSubject.from_json(entry.get("subject"))).keywords and "caption" in entry:
                written = entries[entry["caption"]]["text"]
                entries[entry["caption"]] = {"text": draw_caption(draw, [written], subject, form)}
        return {**document, "segments": entries}, {}
    texts, captions = list(document["text_list"]), dict[Placement, str]()
    for image in document["image_info"]:
        subject, sentence = ImageSubject.from_json(image.get("subject")), image["matched_text_index"]
        if not 0 <= sentence < len(texts):
            continue
        caption: str = document["text_list"][sentence]
        if subject.keywords:
            texts[sentence] = caption = draw_caption(draw, [caption], subject, form)
        captions[Placement(sentence, image["image_name"])] = caption
    return {**document, "text_list": texts}, captions


def concepts_by_image(document: dict[str, Any], captions: Mapping[Placement, str]) -> dict[str, str]:
    """By the image's name, in view of its caption, which is its sentence where ``captions`` has none."""
    texts, concepts = document["text_list"], {}
    for image in document["image_info"]:
        subject, sentence = ImageSubject.from_json(image.get("subject")), image["matched_text_index"]
        written = texts[sentence] if 0 <= sentence < len(texts) else ""
        caption = captions.get(Placement(sentence, image["image_name"]), written)
        concepts[image["image_name"]] = captioned_concept(subject, caption)
    return concepts


def hash_term(term: str) -> int:
    """Hash of a name, keyword or concept, whatever its case: signed 64 bits, equal on every machine; 0: empty."""
    if not term.strip():
        return 0
    digest = hashlib.blake2b(term.strip().casefold().encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def term_hashes(subject: ImageSubject, caption: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Hashes of an image's name, attributes and keywords, at most ``MAX_IMAGE_TERMS``, and of its caption's terms.

    A caption that is not a list of some of the first, with commas, has none. An attribute and the term after it are two
    terms: a "red car" is every image that is red and a car.
    """
    known = dict.fromkeys(map(hash_term, (subject.name, *subject.attributes, *subject.keywords)))
    known.pop(0, None)
    image = tuple(known)[:MAX_IMAGE_TERMS]
    attribute, rest = split_attribute(subject, caption)
    for terms in ([caption], caption.split(","), [attribute, rest]):
        text = tuple(dict.fromkeys(map(hash_term, terms)))
        if len(text) <= MAX_CAPTION_TERMS and set(text) <= set(image):
            return image, text
    return image, ()


def split_attribute(subject: ImageSubject, caption: str) -> tuple[str, str]:
    """An attribute of the image with which the caption begins, and the rest; ("", caption) where there is none."""
    for attribute in subject.attributes:
        if caption.startswith(f"{attribute} "):
            return attribute, caption[len(attribute) + 1 :]
    return "", caption


def captioned_concept(subject: ImageSubject, caption: str) -> str:
    """The image's concept, after the attribute if its caption names one: a blue car is no "red car".

    Of a caption that is an attribute alone, that attribute.
    """
    if caption in subject.attributes:
        return caption
    attribute = split_attribute(subject, caption)[0]
    return f"{attribute} {subject.concept}" if attribute and subject.concept else subject.concept
