"""What the clients call their archives, and what of them is wanted."""

from __future__ import annotations

from lcl_core.dataset_builder.packages import apt, npm
from lcl_core.dataset_builder.sources import SOURCES


def test_archives_are_named_as_the_clients_name_them() -> None:
    assert npm("@iconify-json/noto-v1", "1.2.5", "").file == "iconify-json-noto-v1-1.2.5.tgz"
    assert npm("openmoji", "17.0.0", "").file == "openmoji-17.0.0.tgz"
    assert apt("openclipart-png", "1:0.18+dfsg-19", "").file == "openclipart-png_1%3a0.18+dfsg-19_all.deb"


def test_licences_are_always_wanted_and_else_what_was_named() -> None:
    package = apt("x-doc", "1", "", "usr/share/doc/x/html/")
    assert package.wants("usr/share/doc/x-doc/copyright")
    assert package.wants("usr/share/doc/x/html/a/b.html")
    assert not package.wants("usr/share/doc/x/pdf/a.pdf")
    assert not apt("common", "1", "").wants("usr/share/x"), "of a package without parts, its licence alone"
    assert npm("x", "1", "", "icons.json").wants("LICENSE")


def test_every_package_is_pinned() -> None:
    packages = [package for source in SOURCES.values() for package in source.packages]
    assert len({package.file for package in packages}) == len(packages) == 57
    assert all(len(package.sha256) == 64 and set(package.sha256) <= set("0123456789abcdef") for package in packages)
