"""Walking a tar's headers: the same members as the standard library finds."""

import tarfile

import pytest

from lcl_core.data.formats.image_lookup import TarMember, split_member_name, walk_tar

NAMES = ["a.jpg", "folder/b.jpg", "ü/ж.txt", f"{'deep/' * 30}c.json", "x" * 180 + ".png", "empty.txt"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_form(make, form):
    names = [name for name in NAMES if form != tarfile.USTAR_FORMAT or len(name) < 100]
    contents = {name: name.encode() * (number * 40) for number, name in enumerate(names)}
    path = make.tar("x.tar", contents.items(), form)
    with tarfile.open(path) as archive:
        expected = [TarMember(entry.name, entry.offset_data, entry.size) for entry in archive]
    assert list(walk_tar(path)) == expected
    data = path.read_bytes()
    assert {entry.name: data[entry.offset : entry.offset + entry.size] for entry in expected} == contents


def test_folders_and_global_headers_are_left_out(make):
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    path = make.tar("x.tar", [(folder, b""), ("folder/a.jpg", b"a")])
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
    path.write_bytes(header + path.read_bytes())
    assert [entry.name for entry in walk_tar(path)] == ["folder/a.jpg"]


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("./a.JPG", "a", "jpg"),
        ("x.y/a.seg.png", "x.y/a", "seg.png"),
        ("x/.hidden", "x/", "hidden"),
        ("plain", "plain", ""),
        ("", "", ""),
    ],
)
def test_key_and_extension(name, key, extension):
    assert split_member_name(name) == (key, extension)
