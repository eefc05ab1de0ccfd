"""Files in folders and zips."""

import os
import pickle
import struct
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.corpus import file_store
from lcl_core.data.corpus.file_store import open_store

FILES = {
    "pairs.jsonl": b"{}\n" * 1000,
    "images/a.png": b"AAAA",
    "images/deep/b.png": bytes(5000),
    "images/empty.png": b"",
}


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return tmp_path / "folder"


def zipped(tmp_path, method=zipfile.ZIP_DEFLATED, prefix=""):
    target = tmp_path / f"{method}{len(prefix)}.zip"
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in FILES.items():
            archive.writestr(prefix + name, data)
    return target


@pytest.fixture(params=["folder", "stored", "deflated", "wrapped"])
def store(request, tmp_path, folder):
    if request.param == "folder":
        return open_store(folder)
    method = zipfile.ZIP_STORED if request.param == "stored" else zipfile.ZIP_DEFLATED
    return open_store(zipped(tmp_path, method, "corpus/" if request.param == "wrapped" else ""))


def test_names_and_contents(store):
    assert list(store.names()) == sorted(FILES)
    for name, data in FILES.items():
        assert store.has(name)
        assert store.read(name, 10_000) == data
        assert store.buffer(name)[0 : len(data) + 1] == data


def test_missing_and_too_large(store):
    assert not store.has("images/none.png")
    with pytest.raises(UserError) as missing:
        store.read("images/none.png", 10)
    assert (missing.value.code, missing.value.file) == ("file_missing", "images/none.png")
    assert store.read("images/deep/b.png", 5000) == bytes(5000)
    with pytest.raises(UserError) as large:
        store.read("images/deep/b.png", 4999)
    assert (large.value.code, large.value.file) == ("too_large", "images/deep/b.png")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "images/../../secret",
        "/etc/passwd",
        "images//a.png",
        "./pairs.jsonl",
        "",
        "a\0b",
        "..\\x",
        "images/",
    ],
)
def test_escapes_are_refused(store, name):
    for call in (store.has, lambda name: store.read(name, 10)):
        with pytest.raises(UserError) as caught:
            call(name)
        assert caught.value.code == "bad_path"


def test_links_may_not_leave_the_folder(folder, tmp_path):
    (tmp_path / "secret").write_text("key")
    (folder / "images" / "out.png").symlink_to(tmp_path / "secret")
    (folder / "images" / "in.png").symlink_to(folder / "images" / "a.png")
    store = open_store(folder)
    assert store.read("images/in.png", 10) == b"AAAA"
    for read in (lambda: store.read("images/out.png", 10), lambda: store.buffer("images/out.png")):
        with pytest.raises(UserError) as caught:
            read()
        assert caught.value.code == "bad_path"


def test_what_is_no_corpus(tmp_path):
    with pytest.raises(UserError) as missing:
        open_store(tmp_path / "none")
    assert missing.value.code == "not_found"
    (tmp_path / "text.zip").write_bytes(b"hello")
    (tmp_path / "cut.zip").write_bytes(zipped(tmp_path).read_bytes()[:-30])
    for name in ("text.zip", "cut.zip"):
        with pytest.raises(UserError) as caught:
            open_store(tmp_path / name)
        assert (caught.value.code, caught.value.file) == ("corpus_unreadable", str(tmp_path / name))


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "half a \ud83d sign", "nul\0"])
def test_a_name_that_no_place_can_have(name):
    with pytest.raises(UserError) as caught:
        open_store(name)
    assert caught.value.code == "not_found"


UNHAVABLE = {
    "a name of 300 characters": ("x" * 300, "name too long"),
    "a path of 6,000 characters": ("a/" * 3000 + "b", "name too long"),
    "half a surrogate pair": ("half a \ud83d sign", "no file can have"),
    "a loop of links": ("loop", "loop of links"),
    "two links in a circle": ("one", "loop of links"),
    "a folder of links in a circle": ("loop/a.png", "loop of links"),
    "a file taken for a folder": ("pairs.jsonl/a.png", "Not a directory"),
}


@pytest.mark.parametrize("name", UNHAVABLE)
def test_a_file_that_cannot_be_had_is_named(folder, name):
    for link, target in (("loop", "loop"), ("one", "two"), ("two", "one")):
        (folder / link).symlink_to(target)
    file, words = UNHAVABLE[name]
    store = open_store(folder)
    assert not store.has(file)
    for read in (lambda: store.read(file, 10), lambda: store.buffer(file)):
        with pytest.raises(UserError, match=f"(?i){words}") as caught:
            read()
        assert (caught.value.code, caught.value.file) == ("file_unreadable", file)


def test_a_file_that_is_cut_short_while_it_is_open_is_named(folder):
    """A mapped one would end the process."""
    file = folder / "pairs.jsonl"
    file.write_bytes(b"{}\n" * 100_000)
    buffer = open_store(folder).buffer("pairs.jsonl")
    os.truncate(file, 3)
    assert buffer[0:3] == b"{}\n"
    with pytest.raises(UserError, match="became shorter") as caught:
        buffer[150_000:150_003]
    assert (caught.value.code, caught.value.file) == ("file_unreadable", "pairs.jsonl")


def test_a_file_of_a_zip_that_unpacks_to_very_much_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(file_store, "MIN_ALLOWANCE_BYTES", 1 << 16)
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pairs.jsonl", b"\n" * (1 << 20))
        archive.writestr("small.jsonl", b"\n" * (1 << 16))
    store = open_store(tmp_path / "made.zip")
    assert len(store.buffer("small.jsonl")) == 1 << 16
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="unpack the zip into a folder") as caught:
            store.buffer("pairs.jsonl")
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()
    assert (caught.value.code, caught.value.file) == ("corpus_unreadable", "pairs.jsonl")


# One entry "a" in a zip: local header, its byte, directory entry, end record; fields are little-endian.
LOCAL = b"PK\3\4" + struct.pack("<5H3L2H", 20, 0, 0, 0, 33, 0, 1, 1, 1, 0) + b"a" + b"!"


def directory(name=b"a", version=20, flags=0, extra=b"", offset=0):
    sizes = (len(name), len(extra), 0, 0, 0, 0, offset)
    return b"PK\1\2" + struct.pack("<6H3L5H2L", version, version, flags, 0, 0, 33, 0, 1, 1, *sizes) + name + extra


def end(entries, count=1, size=None, offset=len(LOCAL), note=0):
    size = len(entries) if size is None else size
    return b"PK\5\6" + struct.pack("<4H2LH", 0, 0, count, count, size, offset, note)


def bare(entries, **more):
    return LOCAL + entries + end(entries, **more)


UNREADABLE_ZIPS = {
    "nothing": b"",
    "a signature alone": b"PK\3\4",
    "another archive": b"Rar!\x1a\7\0" + bytes(100),
    "no end record": LOCAL + directory(),
    "an end record cut short": bare(directory())[:-1],
    "a directory larger than the file": bare(directory(), size=1 << 20),
    "a directory of other bytes": bare(b"?" * 60),
    "an entry cut short": bare(directory()[:30]),
    "more entries than there are": bare(directory(), size=46 + 47),
    "a version of the future": bare(directory(version=127)),
    "an entry without a name": bare(directory(b"")),
    "a name that is not UTF-8": bare(directory(b"\xff\xfe", flags=0x800)),
    "an extra field cut short": bare(directory(extra=struct.pack("<2HI", 1, 4, 0), offset=0xFFFFFFFF)),
    "an extra field longer than it is": bare(directory(extra=struct.pack("<2H", 1, 900))),
}


@pytest.mark.parametrize("name", UNREADABLE_ZIPS)
def test_a_zip_that_cannot_be_read_is_named(tmp_path, name):
    path = tmp_path / "bad.zip"
    path.write_bytes(UNREADABLE_ZIPS[name])
    with pytest.raises(UserError, match="the zip cannot be read") as caught:
        open_store(path)
    assert (caught.value.code, caught.value.file) == ("corpus_unreadable", str(path))


def test_a_list_of_members_that_is_too_long_is_not_parsed(tmp_path):
    path, size = tmp_path / "many.zip", 33 << 20
    zip64_record = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 1, 1, size, 0)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, size, 1)
    with path.open("wb") as file:
        file.truncate(size)  # the list, not written
        file.seek(size)
        file.write(zip64_record + locator + end(b"", size=50))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="unpack it into a folder") as caught:
            open_store(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert (caught.value.code, caught.value.file) == ("corpus_unreadable", str(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_entry_is_named(tmp_path, method):
    path = zipped(tmp_path, method)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("images/a.png").header_offset + 30 + len("images/a.png")
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
    store = open_store(path)
    with pytest.raises(UserError) as caught:
        store.read("images/a.png", 10)
    assert (caught.value.code, caught.value.file) == ("file_unreadable", "images/a.png")
    assert store.read("images/deep/b.png", 5000) == bytes(5000)


def test_an_entry_larger_than_it_says_is_refused_unpacked(tmp_path):
    path, size = tmp_path / "bomb.zip", 64 << 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pairs.jsonl", bytes(size))
    path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little")))
    store = open_store(path)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            store.read("pairs.jsonl", 100)
        assert tracemalloc.get_traced_memory()[1] < size / 8
    finally:
        tracemalloc.stop()
    assert caught.value.code == "file_unreadable"


def test_threads_read_at_once(store):
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        names = sorted(FILES)[number % 2 :]
        return all(store.read(name, 10_000) == FILES[name] for name in names * 50)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_forked_children_read_at_once(store):
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            right = all(store.read(name, 10_000) == FILES[name] for name in sorted(FILES) * 100)
            os._exit(0 if right else 1)
        children.append(child)
    assert all(store.read(name, 10_000) == FILES[name] for name in sorted(FILES) * 100)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


def test_a_store_travels_to_another_process(store):
    assert pickle.loads(pickle.dumps(store)).read("images/a.png", 10) == b"AAAA"


def test_hidden_folders_and_wrappers_around_images_alone(tmp_path, folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    assert list(open_store(folder).names()) == sorted(FILES)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/a.png", b"AAAA")
    assert list(open_store(tmp_path / "images.zip").names()) == ["images/a.png"]
