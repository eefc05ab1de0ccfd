"""Images decoded once: the crops are those from the files up to one more resampling, in every process."""

import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcl_core.common.disk_cache import FolderCache
from lcl_core.common.errors import UserError
from lcl_core.data import Sample, SampleStream, open_corpus
from lcl_core.data.formats import open_reader
from lcl_core.data.image_decoding import CropNeed
from lcl_core.data.sampling.loader import load_batches
from lcl_core.data.sampling.resident_images import (
    ResidentImages,
    open_resident_images,
    resident_sources,
)
from lcl_core.data.shards.convert import convert
from lcl_core.data.transforms import CLIP_STD
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec

ONE_LEVEL = 1 / 255 / min(CLIP_STD)
SIZE = 16
SOURCES = ({"dataset": "d", "view": "interleaved"}, {"dataset": "d", "view": "pairs", "weight": 2})
STRONG = {"colour_jitter": 0.2, "flip_probability": 0.5, "invert": 0.3, "channel_permutation": 0.3, "background": 0.5}
Opened = Callable[..., Any]


def scene(number, width, height):
    levels = np.random.default_rng(number).integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def corpus(kit):
    sizes = {"wide.png": (120, 60), "tall.png": (50, 90), "tiny.png": (9, 7), "square.png": (64, 64)}
    for number, (name, size) in enumerate(sizes.items()):
        kit.write(f"images/{name}", png(scene(number, *size)))
    kit.write("images/torn.png", b"no image")
    documents = [
        kit.document(["one", "two"], kit.image("wide.png", 0), kit.image("torn.png", 1)),
        kit.document(["three"], kit.image("unlike.png", 0, similarity=0.1), kit.image("tall.png", 0)),
        {"segments": [{"text": "a"}, {"image": "tiny.png"}], "text_list": [], "image_info": []},
    ]
    pairs = [kit.pair("square.png", "a square"), kit.pair("wide.png", "wide", split="test")]
    return kit.corpus(documents, pairs)


@pytest.fixture
def opened(corpus, tokenizer, tmp_path):
    """(stream, folders, data): a stream over resident images, in a context that is left at once."""

    def call(max_bytes=1 << 20, **fields):
        data = DataSpec(sources=SOURCES, resident=True, **fields)
        sources = resident_sources(data, SIZE, {"d": corpus}, {"d": corpus.content_hash()})
        with open_resident_images(sources, FolderCache(tmp_path / "cache", max_bytes)) as folders:
            stream = SampleStream(data, {"d": corpus}, tokenizer, 4, SIZE, 120, seed=0, resident=folders)
        return stream, folders["d"], data

    return call


@pytest.mark.parametrize("shape", [(120, 60), (50, 90), (300, 300), (9, 7), (1, 400), (640, 480)])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_no_crop_of_the_stored_size_has_fewer_pixels_than_the_input(shape, share):
    need = CropNeed(SIZE, share)
    width, height = need.smallest_size(*shape)
    assert width <= shape[0]
    assert height <= shape[1]
    narrowest = min((width * height * share * 0.75) ** 0.5, width, height)
    assert (width, height) == shape or narrowest >= SIZE
    assert need.smallest_size(width, height) in {(width, height), shape}


def test_what_the_sources_read_is_stored_at_the_size_that_crops_need(opened):
    _, folder, data = opened(augmentation={"crop_scale": (0.6, 1.0)})
    images = ResidentImages(folder)
    assert len(images) == 5, "neither the image that is too unlike, nor that of another split alone"
    assert images.read("tiny.png").size == (9, 7)
    assert images.read("square.png").size == (24, 24)
    assert images.read("wide.png").size == CropNeed(SIZE, 0.6).smallest_size(120, 60)
    whole, stored = scene(3, 64, 64).resize((24, 24), Image.Resampling.BICUBIC), images.read("square.png")
    assert np.array_equal(np.asarray(whole), np.asarray(stored))
    levels = (folder / "levels.u8").stat().st_size
    assert levels <= data.resident_bytes(SIZE, 4) * 1.2


def test_crops_are_those_from_the_files_up_to_another_resampling(opened, corpus, tokenizer):
    stream, _, data = opened()
    plain = SampleStream(data, {"d": corpus}, tokenizer, 4, SIZE, 120, seed=0)
    for position in range(16):
        mine, theirs = stream[position], plain[position]
        assert type(mine) is type(theirs)
        if isinstance(mine, Sample):
            assert (mine.id, mine.left_out) == (theirs.id, theirs.left_out)
            assert np.array_equal(mine.token_ids, theirs.token_ids)
            assert np.abs(mine.pixels - theirs.pixels).mean() < 12 * ONE_LEVEL, "corners are rounded to coarser pixels"


def test_an_image_that_cannot_be_read_is_counted_as_ever(opened, corpus):
    stream, folder, _ = opened()
    with pytest.raises(UserError) as stored:
        ResidentImages(folder).read("torn.png")
    with pytest.raises(UserError) as read:
        corpus.read_image("torn.png")
    assert (stored.value.code, stored.value.message, stored.value.file) == (
        read.value.code,
        read.value.message,
        read.value.file,
    )
    left_out = [sample.left_out for position in range(12) if isinstance(sample := stream[position], Sample)]
    assert ("image_unreadable",) in left_out


def test_any_number_of_loaders_reads_the_same_and_no_file(opened, monkeypatch):
    stream, _, _ = opened(augmentation=STRONG)

    def refuse(self, name):
        raise AssertionError(f"{name} is read again")

    monkeypatch.setattr(type(stream.corpora["d"]), "image_bytes", refuse)
    batches = [
        [
            [(sample.position, sample.levels.tobytes()) for sample in batch.samples]
            for batch in itertools.islice(load_batches(stream, 0, BatchSpec(tokens=128, images=4), workers), 6)
        ]
        for workers in (0, 2)
    ]
    assert batches[0] == batches[1]


def test_the_folder_is_made_once_and_again_to_the_same_bytes(opened, tmp_path):
    _, folder, _ = opened()
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    stamp = folder.stat().st_ino
    assert opened()[1].stat().st_ino == stamp
    assert opened(augmentation={"crop_scale": (0.5, 1.0)})[1] != folder, "other crops need another size"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert {file.name: file.read_bytes() for file in opened()[1].iterdir()} == first


def test_a_corpus_beyond_the_limit_names_the_field_and_the_way_out(opened, tmp_path):
    with pytest.raises(UserError, match=r"data\.resident.*LCL_DATA_CACHE_BYTES") as caught:
        opened(max_bytes=1000)
    assert (caught.value.code, caught.value.field) == ("too_large", "data.resident")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()], "nothing of it stays"


def test_a_corpus_of_shards_gives_what_its_folder_gives(kit, corpus, tokenizer, tmp_path):
    convert(open_reader(kit.root, "native").records(), tmp_path / "shards")
    seen = []
    for each in (corpus, open_corpus(tmp_path / "shards")):
        data = DataSpec(sources=SOURCES)
        sources = resident_sources(data, SIZE, {"d": each}, {"d": each.content_hash()})
        with open_resident_images(sources, FolderCache(tmp_path / "cache", 1 << 20)) as folders:
            stream = SampleStream(data, {"d": each}, tokenizer, 4, SIZE, 120, seed=0, resident=folders)
        samples = [sample for position in range(24) if isinstance(sample := stream[position], Sample)]
        seen.append({sample.levels.shape[0] for sample in samples})
        assert (folders["d"] / "levels.u8").stat().st_size > 0
    assert seen[0] == seen[1]


def test_a_dataset_that_was_changed_after_it_was_registered_is_decoded_again(kit):
    """Its recorded hash is the one of before."""
    recorded = "f" * 64
    data = DataSpec(sources=SOURCES)

    def source(corpus):
        return resident_sources(data, SIZE, {"d": corpus}, {"d": recorded})["d"]

    documents = [kit.document(["one", "two"], kit.image("a.png", 0))]
    kit.write("images/a.png", png(scene(0, 40, 40)))
    kit.write("images/b.png", png(scene(1, 40, 40)))
    before = source(kit.corpus(documents, [kit.pair("a.png", "a")]))
    assert source(kit.corpus(documents, [kit.pair("a.png", "a")])).name == before.name
    assert source(kit.corpus(documents, [kit.pair("a.png", "a"), kit.pair("b.png", "b")])).name != before.name


def test_an_image_that_was_not_there_when_the_hash_was_recorded_names_the_way_out(opened):
    _, folder, _ = opened()
    with pytest.raises(UserError, match="lcl data validate") as caught:
        ResidentImages(folder).read("renamed.png")
    assert (caught.value.code, caught.value.file) == ("image_unreadable", "renamed.png")
