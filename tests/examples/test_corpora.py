"""Corpora from packages: archives are unpacked safely, a built corpus is read like any other, tests are made of it."""

import io
import json
import tarfile

import pytest
from PIL import Image

from examples.corpora import composed, held_out
from examples.corpora.build import build
from examples.corpora.packages import Package, PackageCache, unpack
from examples.corpora.rows import DocumentRow, PairRow, PlacedImage, SourceRows
from examples.corpora.sources import SOURCES, CorpusSource, select_sources
from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.data import open_corpus


def archive(path, files, client):
    """A package with ``files``, {name: contents or ("link", target)}."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, contents in files.items():
            info = tarfile.TarInfo(f"package/{name}" if client == "npm" else f"./{name}")
            if isinstance(contents, tuple):
                info.type, info.linkname = tarfile.SYMTYPE, contents[1]
                tar.addfile(info)
            else:
                info.size = len(contents)
                tar.addfile(info, io.BytesIO(contents))
    data = packed.getvalue()
    if client == "apt":
        header = f"{'data.tar.gz':16}{'0':12}{'0':6}{'0':6}{'100644':8}{len(data):<10}`\n".encode()
        data = b"!<arch>\n" + header + data
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("client", ["npm", "apt"])
def test_only_wanted_files_are_unpacked_and_none_outside(tmp_path, client):
    files = {"icons/a.svg": b"a", "other/b": b"b", "icons/../../c": b"c", "icons/up": ("link", "../../../etc/passwd")}
    package = Package(client, "p", "1", "0", ("icons/",))
    unpack(archive(tmp_path / package.file, files, client), tmp_path / "out", package)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()] == [
        package.file,
        "out/icons/a.svg",
    ]


def picture(number):
    image = Image.new("RGB", (40, 40), "white")
    image.paste((number * 40, 90, 200 - number * 30), (number * 4, 4, number * 4 + 16, 36))
    return image


def build_source(files):
    assert (files.packages["p"] / "LICENSE").read_text() == "CC0"
    names = [files.images.put(picture(number), f"drawings/{number}") for number in (0, 1, 2, 3, 3)]
    names[4] = files.images.put(picture(3), "drawings/twin")
    splits = ("train", "train", "train", "train", "test")
    pairs = [
        PairRow(name, (f"thing {at}",), {}, split, "drawings", "MIT")
        for at, (name, split) in enumerate(zip(names, splits, strict=True))
    ]
    texts = ("The pump is below the tank.", "thing", "Turn the valve to the left.")
    documents = [
        DocumentRow(str(at), "drawings", "MIT", texts, (PlacedImage(name, 1, 1),), split)
        for at, (name, split) in enumerate(zip(names, ("train", "train", "val", "val"), strict=False))
    ]
    return SourceRows(pairs, documents)


@pytest.fixture
def corpus(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    file = archive(cache / "p-1.tgz", {"LICENSE": b"CC0"}, "npm")
    package = Package("npm", "p", "1", sha256_file(file), ("drawings/",))
    source = CorpusSource("drawings", "drawings", (package,), ("MIT",), build_source)
    out = tmp_path / "corpus"
    build([source], PackageCache(cache, False, print), out, print, side=32, permissive=True)
    return out


def test_a_built_corpus_is_read_like_any_other(corpus):
    found = open_corpus(corpus)
    assert found.splits() == {"train": 4}, "a test image that equals one of training is left out"
    assert len(found.documents) == 2
    assert "licences/p/LICENSE" in (corpus / "NOTICE").read_text()
    first = json.loads((corpus / "pairs" / "drawings.jsonl").read_text().splitlines()[0])
    assert first["attributes"] == ["blue"]
    assert json.loads((corpus / "statistics.json").read_text())["drawings"]["leaks"] == 1


def test_tests_and_studies_are_made_of_it(corpus, tmp_path):
    assert held_out.make(corpus, tmp_path / "held-out") == {"val": 2, "train": 2}
    assert open_corpus(tmp_path / "held-out").splits() == {"val": 2, "train": 2}
    counts = composed.make(corpus, tmp_path / "composed", ["drawings"], passes=2, seed=0)
    assert counts == {"documents": 2, "images": 4, "sentences": 2}
    assert len(open_corpus(tmp_path / "composed").documents) == 2


def test_missing_packages_are_named(tmp_path):
    with pytest.raises(UserError, match=r"p-1\.tgz; --fetch downloads them"):
        PackageCache(tmp_path, False, print).require([Package("npm", "p", "1", "0")])
    with pytest.raises(UserError, match="there is no source 'nothing'"):
        select_sources(["nothing"])
    assert not [source.name for source in select_sources(None) if source.exam]
    assert all(len(package.sha256) == 64 for source in SOURCES.values() for package in source.packages)
