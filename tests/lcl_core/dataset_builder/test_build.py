"""From packages in their real formats to a corpus that the project's own readers open."""

from __future__ import annotations

import errno
import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.dataset_builder.build import BuildPlan, build
from lcl_core.dataset_builder.packages import PackageCache
from lcl_core.dataset_builder.sources import SOURCES, CorpusSource, select_sources
from tests.lcl_core.dataset_builder.sources import packages

pytest.importorskip("resvg_py")


@pytest.fixture
def sources(kit: Any) -> tuple[CorpusSource, ...]:
    """Emoji (npm) and stamps (Debian), a few images of each, in the cache."""
    return (kit.packed(SOURCES["emoji"], packages.EMOJI), kit.packed(SOURCES["stamps"], packages.STAMPS))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_corpus_in_the_projects_own_form(kit: Any, sources: Any, said: Any, tmp_path: Path) -> None:
    lines, say = said
    figures = build(BuildPlan(sources), PackageCache(kit.cache, False, say), tmp_path / "out", say)
    corpus = open_corpus(tmp_path / "out")
    assert {pair.source for pair in corpus.pairs()} == {"emoji", "stamps"}
    assert len(corpus.pairs()) == sum(sum(each["pairs"].values()) for each in figures.values())
    assert len(corpus.documents) == sum(each["documents"].get("train", 0) for each in figures.values())
    for pair in corpus.pairs():
        assert max(corpus.read_image(pair.image).size) <= 128
    named = [image["image_name"] for document in corpus.documents for image in document["image_info"]]
    held_out = {pair.image for pair in corpus.pairs() if pair.split != "train"}
    assert named
    assert not held_out & set(named)
    assert json.loads((tmp_path / "out" / "statistics.json").read_text()) == figures
    assert any(line.startswith("emoji: ") for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "out"}


def test_who_made_it_comes_along(kit: Any, sources: Any, said: Any, tmp_path: Path) -> None:
    build(BuildPlan(sources), PackageCache(kit.cache, False, said[1]), tmp_path / "out", said[1])
    notice = (tmp_path / "out" / "NOTICE").read_text()
    for words in ("emoji: ", "CC-BY-SA-4.0", "npm package @iconify-json/twemoji 1.2.5", "GPL-2.0"):
        assert words in notice
    kept = tmp_path / "out" / "licences"
    assert (kept / "tuxpaint-stamps-default" / "copyright").read_text() == packages.COPYRIGHT
    assert (kept / "iconify-json-twemoji" / "info.json").read_text() == '{"author": "Twitter"}'


def test_the_same_packages_give_the_same_corpus(kit: Any, sources: Any, said: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(BuildPlan(sources), PackageCache(kit.cache, False, said[1]), tmp_path / name, said[1])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_interrupted_build_goes_on_after_what_it_had_finished(
    kit: Any, sources: Any, said: Any, tmp_path: Path
) -> None:
    emoji, stamps = sources
    built: list[str] = []

    def counted(source: CorpusSource, fails: bool = False) -> CorpusSource:
        def work(files: Any) -> Any:
            built.append(source.name)
            found = source.build(files)
            if fails:
                raise KeyboardInterrupt
            return found

        return replace(source, build=work)

    cache, out = PackageCache(kit.cache, False, said[1]), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build(BuildPlan((counted(emoji), counted(stamps, fails=True))), cache, out, said[1])
    assert not out.exists()
    build(BuildPlan((counted(emoji), counted(stamps))), cache, out, said[1])
    assert built == ["emoji", "stamps", "stamps"]
    build(BuildPlan(sources), cache, tmp_path / "whole", said[1])
    assert contents(out) == contents(tmp_path / "whole")


def test_another_choice_is_not_taken_from_what_was_finished(kit: Any, sources: Any, said: Any, tmp_path: Path) -> None:
    emoji, stamps = sources

    def stop(_: Any) -> Any:
        raise KeyboardInterrupt

    cache = PackageCache(kit.cache, False, said[1])
    with pytest.raises(KeyboardInterrupt):
        build(BuildPlan((emoji, replace(stamps, build=stop))), cache, tmp_path / "out", said[1])
    build(BuildPlan((emoji, stamps), licences="permissive"), cache, tmp_path / "out", said[1])
    corpus = open_corpus(tmp_path / "out")
    assert {pair.extra["vendor"] for pair in corpus.pairs()} == {"twemoji", "streamline"}
    assert {pair.extra["licence"] for pair in corpus.pairs()} == {"CC-BY-4.0"}
    notice = (tmp_path / "out" / "NOTICE").read_text()
    assert "stamps" not in notice
    assert "openmoji" not in notice
    assert "CC-BY-SA" not in notice


def test_another_renderer_draws_what_was_finished_again(
    kit: Any, sources: Any, said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a corpus would have images of two versions, which differ in some pixels."""
    emoji, stamps = sources
    built: list[str] = []

    def stop(_: Any) -> Any:
        raise KeyboardInterrupt

    def counted(files: Any) -> Any:
        built.append("emoji")
        return emoji.build(files)

    cache, plan = PackageCache(kit.cache, False, said[1]), (replace(emoji, build=counted), replace(stamps, build=stop))
    for version in ("0.5", "0.5", "0.6"):
        monkeypatch.setattr("lcl_core.dataset_builder.build.renderer_version", lambda version=version: version)
        with pytest.raises(KeyboardInterrupt):
            build(BuildPlan(plan), cache, tmp_path / "out", said[1])
    assert built == ["emoji", "emoji"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (PermissionError(errno.EACCES, "Permission denied"), "file_inaccessible"),
        (BrokenProcessPool("a process ended"), "build_died"),
    ],
)
def test_a_build_that_the_system_ends_goes_on_the_next_time(
    kit: Any, sources: Any, said: Any, tmp_path: Path, error: Exception, code: str
) -> None:
    emoji, stamps = sources

    def fail(_: Any) -> Any:
        raise error

    def refuse(_: Any) -> Any:
        raise AssertionError("it was finished")

    cache = PackageCache(kit.cache, False, said[1])
    with pytest.raises(UserError, match="run it again") as caught:
        build(BuildPlan((emoji, replace(stamps, build=fail))), cache, tmp_path / "out", said[1])
    assert caught.value.code == code
    build(BuildPlan((replace(emoji, build=refuse), stamps)), cache, tmp_path / "out", said[1])
    assert open_corpus(tmp_path / "out").splits()


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (BuildPlan((SOURCES["stamps"],), licences="permissive"), "nothing_chosen"),
        (BuildPlan((SOURCES["gimp"],)), "packages_missing"),
    ],
)
def test_what_cannot_be_built_is_reported_and_leaves_nothing(
    kit: Any, said: Any, tmp_path: Path, plan: BuildPlan, code: str
) -> None:
    with pytest.raises(UserError) as caught:
        build(plan, PackageCache(kit.cache, False, said[1]), tmp_path / "out", said[1])
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_sources_are_chosen_by_name_and_keep_their_order() -> None:
    assert [source.name for source in select_sources(["gimp", "emoji"])] == ["emoji", "gimp"]
    assert [source.name for source in select_sources(None)] == [name for name, each in SOURCES.items() if not each.exam]
    with pytest.raises(UserError, match="there is no source 'emojis'; choose from emoji") as caught:
        select_sources(["emojis"])
    assert caught.value.code == "unknown_source"
