"""Captions composed anew at every pass of names, keywords and texts as written."""

import itertools
import random
from collections import Counter

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import SAMPLE_CORPUS, Sample, SampleStream, open_corpus
from lcl_core.data.formats import open_reader
from lcl_core.data.records import ImageSubject, Record
from lcl_core.data.sampling.captions import captioned_concept, draw_caption, hash_term, term_hashes
from lcl_core.data.shards.convert import convert
from lcl_core.specs.data import DataSpec
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import BatchSpec, PretrainSpec
from lcl_core.train.factory import build_tokenizer

N, SIZE, LENGTH = 4, 16, 160
DOG = {"name": "dog face", "keywords": ["dog", "pet", "puppy"], "labels": {"concept": "dog face"}}
WRITTEN = "the face of a dog"
DRAWN_PAIRS = {"dataset": "here", "view": "pairs", "captions": "drawn"}
DRAWN = {"dataset": "here", "captions": "drawn"}
INTERLEAVED = {"dataset": "here"}
BUDGET = BatchSpec(tokens=256, images=8)


@pytest.fixture
def corpus(kit):
    """Two images with keywords, one without, and a document in which a sentence is no caption."""
    texts = ["faces.", WRITTEN, "a green square: it is square, and green", "so is this", "cat"]
    images = [kit.image("red.png", 1), kit.image("blue.png", 2), kit.image("white.png", 3), kit.image("green.png", 4)]
    cat = {"keywords": ["cat", "kitten"], "labels": {"concept": "Cat"}}
    pairs = [
        kit.pair("red.png", WRITTEN, **DOG),
        kit.pair("blue.png", "a blue square", "plain", name="square"),
        kit.pair("white.png", "wool", name="sheep", keywords=["wool", "farm"], labels={"concept": "sheep"}),
        kit.pair("green.png", "cat", **cat),
    ]
    return kit.corpus([kit.document(texts, *images), kit.document(texts, *images)], pairs)


@pytest.fixture
def open_stream(corpus, tokenizer):
    def call(*sources, corpus=corpus, concepts=False, **named):
        data = DataSpec(sources=sources, **named)
        return SampleStream(data, {"here": corpus}, tokenizer, N, SIZE, LENGTH, seed=0, concepts=concepts)

    return call


def texts_of(sample, tokenizer):
    """Texts between images."""
    parts = [[]]
    for token in sample.token_ids.tolist():
        if token == tokenizer.specials.soi:
            parts.append([])
        elif token < tokenizer.specials.sot:
            parts[-1].append(token)
    return [text for part in parts if (text := tokenizer.decode(part).strip())]


def captions_by_image(stream, tokenizer, count):
    """Captions of the pairs, by their line."""
    found = {}
    for position in range(count):
        sample = stream[position]
        assert isinstance(sample, Sample)
        found.setdefault(sample.id.rpartition(":")[2], []).extend(texts_of(sample, tokenizer))
    return found


def test_each_form_of_a_caption_is_drawn_as_often():
    subject, draws = ImageSubject("dog face", ("dog", "pet", "puppy")), 8000
    draw = random.Random(0)
    counts = Counter(draw_caption(draw, [WRITTEN], subject) for _ in range(draws))
    single = {word: counts.pop(word) for word in subject.keywords}
    for share in (counts.pop(WRITTEN), counts.pop("dog face"), sum(single.values()), sum(counts.values())):
        assert share / draws == pytest.approx(0.25, abs=0.02)
    assert all(count / draws == pytest.approx(0.25 / 3, abs=0.015) for count in single.values())
    several = [caption.split(", ") for caption in counts]
    assert {len(terms) for terms in several} == {2, 3, 4}
    assert all(len(set(terms)) == len(terms) for terms in several)
    assert {("pet", "dog"), ("dog", "pet")} <= {tuple(terms) for terms in several}, "in any order"
    assert {terms[0] for terms in several} == {"dog face", *subject.keywords}


def test_half_of_the_single_terms_follow_an_attribute_or_give_way_to_it():
    draw, draws = random.Random(0), 8000
    terms, attributes = ("city bus", "bus", "vehicle"), ("red", "old")
    bus = ImageSubject("city bus", terms[1:], "city bus", attributes)
    for form, single in (("keyword", 1.0), ("drawn", 0.5)):
        counts = Counter(draw_caption(draw, ["a bus."], bus, form) for _ in range(draws))
        described = [f"{attribute} {term}" for attribute in attributes for term in terms]
        for captions, share in ((terms, 1 / 2), (described, 3 / 8), (attributes, 1 / 8)):
            assert sum(counts[caption] for caption in captions) / draws / single == pytest.approx(share, abs=0.02)
            assert all(counts[caption] > draws / 60 * single for caption in captions)


def test_what_an_image_does_not_have_is_not_drawn():
    draw = random.Random(0)
    assert {draw_caption(draw, [], ImageSubject(keywords=("cat",))) for _ in range(50)} == {"cat"}
    assert {draw_caption(draw, ["a cat"], ImageSubject(keywords=("cat",))) for _ in range(50)} == {"cat", "a cat"}


def test_a_keyword_alone_is_drawn_as_often_as_the_name(open_stream, tokenizer):
    captions = captions_by_image(open_stream({**DRAWN_PAIRS, "captions": "keyword"}), tokenizer, 4 * 400)
    dogs = Counter(captions["1"])
    assert set(dogs) == {"dog face", "dog", "pet", "puppy"}
    assert all(count / 400 == pytest.approx(0.25, abs=0.07) for count in dogs.values())
    assert set(captions["2"]) == {"a blue square", "plain"}, "without keywords the captions stay"
    assert set(captions["4"]) == {"cat", "kitten"}, "there is no name"


def test_as_written_draws_as_before_and_so_do_images_without_keywords(open_stream, tokenizer):
    written = captions_by_image(open_stream({**DRAWN_PAIRS, "captions": "as_written"}), tokenizer, 80)
    drawn = captions_by_image(open_stream(DRAWN_PAIRS), tokenizer, 80)
    assert {line: set(texts) for line, texts in written.items()} == {
        "1": {WRITTEN}, "2": {"a blue square", "plain"}, "3": {"wool"}, "4": {"cat"},
    }  # fmt: skip
    assert drawn["2"] == written["2"]


@pytest.mark.parametrize("view", ["pairs", "interleaved", "matched_pairs"])
def test_a_source_has_its_own_share_of_images_before_their_texts(open_stream, tokenizer, view):
    def firsts(**own):
        stream = open_stream({**INTERLEAVED, "view": view, **own}, image_first_probability=0.5, piece_images=1)
        samples = [stream[position] for position in range(40)]
        return {image_before_its_text(sample) for sample in samples if isinstance(sample, Sample)}

    def image_before_its_text(sample):
        after = sample.token_ids[sample.token_ids.tolist().index(tokenizer.specials.eoi) + 1 :]
        return bool((after < tokenizer.specials.sot).any())

    assert firsts(image_first_probability=0.0) == {False}
    assert firsts(image_first_probability=1.0) == {True}
    assert firsts() == {False, True}


@pytest.mark.parametrize("view", ["interleaved", "matched_pairs"])
def test_captions_in_documents_are_drawn_and_prose_stays(open_stream, tokenizer, view):
    stream = open_stream({**DRAWN, "view": view}, image_first_probability=1.0)
    found = set()
    for position in range(120):
        found |= set(texts_of(stream[position], tokenizer))
    if view == "matched_pairs":
        assert {"dog", "pet", "puppy", "dog face", WRITTEN, "cat", "kitten"} <= found
    else:  # between two images stands the sentence of the first, and what follows it
        assert all(any(word in text for text in found) for word in ("puppy", "kitten", WRITTEN))
    prose = [text for text in found if text.startswith(("a green square", "so is this"))]
    assert set(prose) == {"a green square: it is square, and green", "so is this"}, "no caption of the image"


def test_all_pieces_of_a_document_draw_the_same_captions(open_stream, tokenizer):
    def texts(index, **named):
        stream = open_stream(DRAWN, image_first_probability=0.0, **named)
        pieces = [stream[position] for position in range(stream.documents_per_epoch * 3)]
        own = [piece for piece in pieces if piece.id.partition("#")[0].endswith(f":{index}")]
        size = len(own) // 3
        first = sorted(own[:size], key=lambda piece: piece.id)
        return [text for piece in first for text in texts_of(piece, tokenizer)]

    for index in (1, 2):
        assert " ".join(texts(index)) == " ".join(texts(index, piece_images=1))


@pytest.mark.parametrize("form", ["drawn", "keyword"])
@pytest.mark.parametrize("view", ["interleaved", "matched_pairs"])
def test_of_images_that_share_a_sentence_each_has_its_own_caption(kit, tokenizer, view, form):
    """Whichever of them is placed, and whether the others are similar enough to be."""
    subjects = {
        "red.png": {"keywords": ["cat"], "concept": "cat"},
        "blue.png": {"keywords": ["dog"], "concept": "dog"},
        "green.png": {"keywords": ["fish"], "concept": "fish"},
        "white.png": {"concept": "bird"},
    }
    images = [kit.image(name, 0) | {"subject": subject} for name, subject in subjects.items()]
    images[2]["matched_sim"] = 0.1
    corpus = kit.corpus([kit.document(["an animal"], *images)])
    source = {"dataset": "here", "view": view, "captions": form}
    stream = SampleStream(DataSpec(sources=[source]), {"here": corpus}, tokenizer, N, SIZE, LENGTH, 0, concepts=True)
    found = set()
    for position in range(120):
        sample = stream[position]
        assert isinstance(sample, Sample)
        found.add((*texts_of(sample, tokenizer), *sample.concepts))
    written = {("an animal", hash_term(name)) for name in ("cat", "dog") if form == "drawn"}
    own = {(name, hash_term(name)) for name in ("cat", "dog")}
    assert found == own | written | {("an animal", hash_term("bird"))}


def read(batches, count):
    return list(itertools.islice(batches, count))


def keys(batches):
    return {each.position: each.token_ids.tobytes() for batch in batches for each in batch.samples}


def test_shards_draw_what_the_folder_draws(open_stream, kit, tmp_path):
    records = [record for record in open_reader(kit.root, "native").records() if isinstance(record, Record)]
    convert(records, tmp_path / "shards")
    for source in (DRAWN_PAIRS, DRAWN, {**DRAWN, "view": "matched_pairs"}):
        folder, shards = (
            open_stream(source, corpus=open_corpus(path), concepts=True) for path in (kit.root, tmp_path / "shards")
        )
        for position in range(12):
            one, other = folder[position], shards[position]
            assert (one.token_ids.tolist(), one.concepts) == (other.token_ids.tolist(), other.concepts)
            assert any(one.concepts) or len(one.concepts) == 1


def test_the_concept_of_an_image_travels_with_its_sample(open_stream):
    pairs = open_stream({**DRAWN_PAIRS, "captions": "as_written"})
    found = {pairs[position].id[-1]: pairs[position].concepts for position in range(4)}
    names = {"1": "dog face", "2": "", "3": "sheep", "4": "cat"}
    assert found == {line: (hash_term(name),) for line, name in names.items()}, "in either case of letters"
    assert hash_term("") == hash_term(" ") == 0
    whole = open_stream({"dataset": "here"}, concepts=True, image_first_probability=0.0)[0]
    assert whole.concepts == tuple(map(hash_term, ("dog face", "", "sheep", "cat")))
    piece = open_stream({"dataset": "here"}, concepts=True, piece_images=1)[0]
    assert len(piece.concepts) == len(piece.levels) == 1
    assert open_stream({"dataset": "here"})[0].concepts == (0, 0, 0, 0), "only where they are needed"


def test_names_and_keywords_of_a_list_in_a_caption(kit):
    """Corpora of before the fields were there, the first lines of the sample among them."""
    captions = ["cat with wry smile", "cat with wry smile: irony, pet, smile"]
    corpus = kit.corpus(pairs=[
        kit.pair("red.png", *captions),
        kit.pair("red.png", *captions, keywords=[]),
        kit.pair("red.png", "cat: a pet"),
        kit.pair("red.png", "Cat", "A cat.", "Cat: pet", keywords=["feline"]),
    ])  # fmt: skip
    words = ("cat", "wry", "smile", "irony", "pet")
    assert [pair.subject for pair in corpus.pairs()] == [
        ImageSubject("cat with wry smile", words), ImageSubject("cat with wry smile"), ImageSubject(),
        ImageSubject("Cat", ("feline",)),
    ]  # fmt: skip
    sample = [pair.subject for pair in open_corpus(SAMPLE_CORPUS).pairs("train")]
    assert sum(bool(subject.keywords) for subject in sample) == 2646
    assert sum("dog" in subject.keywords for subject in sample) > 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"image": "a.png", "captions": [], "name": 5}, "name must be a string"),
        ({"image": "a.png", "captions": [], "keywords": "a, b"}, "keywords must be a list of strings"),
        ({"image": "a.png", "captions": [], "keywords": ["a", 5]}, "keywords must be a list of strings"),
        ({"image": "a.png", "captions": [], "attributes": "red"}, "attributes must be a list of strings"),
    ],
)
def test_a_field_of_another_type_is_a_bad_line(kit, line, problem):
    with pytest.raises(UserError, match=problem) as caught:
        kit.corpus(pairs=[line]).all_pairs[0]
    assert (caught.value.code, caught.value.line) == ("bad_document", 1)


def test_a_subject_in_the_document_itself_comes_first(kit, tokenizer):
    image = {**kit.image("red.png", 0), "subject": {"keywords": ["fish"], "concept": "fish"}}
    corpus = kit.corpus([kit.document(["a fish"], image)], [kit.pair("red.png", "a fish", **DOG)])
    stream = SampleStream(DataSpec(sources=(DRAWN,)), {"here": corpus}, tokenizer, N, SIZE, LENGTH, 0, concepts=True)
    samples = [stream[position] for position in range(40)]
    assert {text for sample in samples for text in texts_of(sample, tokenizer)} == {"fish", "a fish"}
    assert {sample.concepts for sample in samples} == {(hash_term("fish"),)}


def test_terms_of_an_image_and_of_a_caption_that_lists_some(kit, open_stream, tokenizer):
    known = tuple(map(hash_term, ("dog face", "dog", "pet", "puppy")))
    stream = open_stream(DRAWN_PAIRS)
    seen = set()
    for sample in (stream[position] for position in range(200)):
        (text,) = texts_of(sample, tokenizer)
        image, caption = sample.terms
        if hash_term("puppy") in image:
            assert image == known
            assert caption == (() if text == WRITTEN else tuple(map(hash_term, text.split(", "))))
            seen.add(len(caption))
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("caption", "terms"),
    [
        ("Dog", ["dog"]),
        ("pet,  puppy", ["pet", "puppy"]),
        ("woman, man", ["woman, man"]),
        ("woman", []),
        ("pet, cat", []),
        ("", []),
        ("k1, k2, k3, k4, k5, k6", ["k1", "k2", "k3", "k4", "k5", "k6"]),
        ("k1, k2, k3, k4, k5, k6, k7", []),
        ("k29", []),
    ],
)
def test_captions_that_are_lists_of_terms(caption, terms):
    """A name may have a comma itself. The first 32 terms of an image are compared."""
    subject = ImageSubject("woman, man", ("dog", "Pet", "puppy", "pet", *(f"k{number}" for number in range(40))))
    image, text = term_hashes(subject, caption)
    assert len(image) == 32
    assert image[:4] == tuple(map(hash_term, ("woman, man", "dog", "pet", "puppy")))
    assert text == tuple(map(hash_term, terms))


@pytest.mark.parametrize(
    ("caption", "terms", "concept"),
    [
        ("red bus", ["red", "bus"], "red city bus"),
        ("red city bus", ["red", "city bus"], "red city bus"),
        ("bus", ["bus"], "city bus"),
        ("blue bus", [], "city bus"),
        ("red tree", [], "red city bus"),
        ("red", ["red"], "red"),
    ],
)
def test_an_attribute_is_a_term_of_its_own(caption, terms, concept):
    """So the caption is a positive of each image that is red and a bus, and no blue bus is of the same concept."""
    bus = ImageSubject("city bus", ("bus", "vehicle"), "city bus", ("red",))
    image, text = term_hashes(bus, caption)
    assert set(image) == set(map(hash_term, ("city bus", "red", "bus", "vehicle")))
    assert text == tuple(map(hash_term, terms))
    assert captioned_concept(bus, caption) == concept


def test_attributes_reach_captions_concepts_and_shards(kit, tokenizer, tmp_path):
    """Of captioned images and of documents, from files and from shards."""
    bus = {"name": "city bus", "keywords": ["bus"], "labels": {"concept": "city bus"}, "attributes": ["red"]}
    corpus = kit.corpus([kit.document(["a bus."], kit.image("red.png", 0))], [kit.pair("red.png", "a bus.", **bus)])
    records = [record for record in open_reader(kit.root, "native").records() if isinstance(record, Record)]
    convert(records, tmp_path / "shards")
    for each in (corpus, open_corpus(tmp_path / "shards")):
        for view in ("pairs", "interleaved", "matched_pairs"):
            source = {"dataset": "here", "view": view, "captions": "keyword"}
            data = DataSpec(sources=[source], image_first_probability=0)
            stream = SampleStream(data, {"here": each}, tokenizer, N, SIZE, LENGTH, seed=0, concepts=True)
            found = {(texts_of(sample, tokenizer)[0], sample.concepts) for sample in (stream[n] for n in range(60))}
            concepts = {"city bus": "city bus", "bus": "city bus", "red city bus": "red city bus", "red": "red"}
            concepts["red bus"] = "red city bus"
            assert found == {(text, (hash_term(concept),)) for text, concept in concepts.items()}, view


@pytest.mark.parametrize("view", ["pairs", "interleaved"])
def test_merges_are_learnt_from_all_terms_of_drawn_captions(kit, view):
    corpus = kit.corpus(
        [kit.document([WRITTEN, "plain"], kit.image("red.png", 0), kit.image("blue.png", 1))],
        [
            kit.pair("red.png", WRITTEN, name="terrier", keywords=["puppy"], attributes=["shaggy"]),
            kit.pair("blue.png", "plain", name="unnamed", attributes=["bluish"]),
        ],
    )

    def words(captions):
        source = {"dataset": "here", "view": view, "captions": captions}
        spec = parse_spec("pretrain", {"tokenizer": {"vocab_size": 400}, "data": {"sources": [source]}})
        assert isinstance(spec, PretrainSpec)
        return build_tokenizer(spec, {"here": corpus}).to_json()

    written, drawn = words("as_written"), words("drawn")
    for term in ("terrier", "puppy", "shaggy"):
        assert (f"Ġ{term}" in written, f"Ġ{term}" in drawn) == (False, True), term
    for term in ("unnamed", "bluish"):
        assert f"Ġ{term}" not in drawn, "without keywords the captions stay"
    assert words("keyword") == drawn


BESIDE = {"text_list": [], "image_info": []}  # every line has these fields
SEQUENCE = BESIDE | {
    "segments": [
        {"text": "faces."},
        {"image": "red.png", "subject": {"keywords": ["forged"]}, "caption": 0},
        {"text": WRITTEN},
        {"text": "wool"},
        {"image": "white.png"},
        {"image": "blue.png"},
        {"text": "so is this"},
    ]
}


def test_a_sequence_draws_the_text_beside_an_image_that_is_its_caption(kit, corpus, open_stream, tokenizer):
    """The one behind it, or else the one before; prose, and fields that the file has there, change nothing."""
    kit.write("interleaved.jsonl", [SEQUENCE])
    sequences = open_corpus(kit.root)
    drawn, plain = open_stream(DRAWN, corpus=sequences), open_stream(INTERLEAVED, corpus=sequences)
    again = open_stream(DRAWN, corpus=open_corpus(kit.root))
    dogs, sheep = set(), set()
    for position in range(40):
        sample, written = drawn[position], plain[position]
        assert isinstance(sample, Sample)
        assert isinstance(written, Sample)
        assert sample.token_ids.tobytes() == again[position].token_ids.tobytes()
        assert texts_of(written, tokenizer) == ["faces.", f"{WRITTEN} wool", "so is this"]
        first, middle, last = texts_of(sample, tokenizer)
        assert (first, last) == ("faces.", "so is this")
        dog = next(text for text in ("dog face", "dog", "pet", "puppy", WRITTEN) if middle.startswith(text))
        dogs.add(dog)
        sheep.update(word for word in ("sheep", "wool", "farm") if word in middle)
    assert len(dogs) >= 4
    assert sheep == {"sheep", "wool", "farm"}
