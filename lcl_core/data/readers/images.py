"""Named images wherever a dataset keeps them: a folder, tars, or the output of img2dataset.

    FOLDER/NAME                 by name; links may not lead out of the folder
    *.tar                       by name in the tar, or by the last part of that name
    NAME.tar, NAME.parquet      by the URL that an image came from, too: it stands in the side file (columns ``key``
                                and ``url``), or else in the KEY.json beside KEY.jpg
    NAME/KEY.jpg, NAME.parquet  the same in folders
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lcl_core.data.readers.arrow_files import read_rows, read_schema
from lcl_core.data.readers.folders import corpus_files, shown
from lcl_core.data.readers.loading import missing, read_file, read_slice
from lcl_core.data.readers.place_index import PlaceIndex
from lcl_core.data.readers.tars import Member, split_name, walk_tar
from lcl_core.data.readers.values import BadValue, parse_object
from lcl_core.data.record import BadItem, Picture
from lcl_core.errors import UserError

IMAGE_EXTENSIONS = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"))
MAX_META_BYTES = 16 << 20
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")  # packed ones are found, to be reported


def is_tar(name: str) -> bool:
    return name.lower().endswith(_TARS)


class ImageFinder:
    """Finds images by name or URL.

    Tars and side files are indexed when it is made: once, 40 bytes a name or URL. Of two images of one name the
    first is found.

    Args:
        place: a folder of images, of tars or of img2dataset's output, or one tar; None: there are no images.

    Attributes:
        problems: what could not be indexed, for the reader to pass on.

    Raises:
        UserError: ``bad_option`` (field ``images``) when there is nothing at ``place``.
    """

    def __init__(self, place: Path | None) -> None:
        if place is not None and not place.exists():
            raise UserError("there is no such folder or tar of images", code="bad_option", field="images", file=place)
        self._place = place
        self._folder = place if place is not None and place.is_dir() else None
        self._index = PlaceIndex()
        self._tars: list[Path] = []
        self._files: list[str] = []
        self.problems: list[BadItem] = []
        if place is not None:
            self._fill(place)

    def find(self, name: str, url: str | None = None, called: str | None = None) -> Picture:
        """The image of that name, or else the one from that URL, as a picture ``called`` so (or ``name``).

        Nothing is read yet: that an image is missing, too large or unreadable shows when it is loaded.
        """
        place = self._index.find(f"name {name.removeprefix('./')}") or self._index.find(f"last {name}")
        if place is None and url:
            place = self._index.find(f"url {url}")
        return Picture(called or name, self._load(place, name))

    def find_url(self, url: str, called: str) -> Picture:
        """The image from that URL, likewise."""
        place = self._index.find(f"url {url}")
        if place is None:
            return Picture(called, partial(missing, url, self._where))
        return Picture(called, self._load(place, url))

    def _load(self, place: tuple[int, int, int] | None, name: str) -> Callable[[], bytes]:
        if place is not None and place[0] < len(self._tars):
            return partial(read_slice, self._tars[place[0]], place[1], place[2], name)
        if self._folder is not None:
            return partial(read_file, self._folder, name if place is None else self._files[place[1]])
        return partial(missing, name, self._where)

    @property
    def _where(self) -> str:
        return "the images at hand" if self._place is None else self._place.name

    def _fill(self, place: Path) -> None:
        for file in corpus_files(place, is_tar):
            if isinstance(file, BadItem):
                self.problems.append(file)
            else:
                self._tars.append(file)
                self._add_tar(file, shown(file, place))
        if self._folder is not None:
            self._add_folders(self._folder)
        self._index.seal()

    def _add_tar(self, tar: Path, name: str) -> None:
        number = len(self._tars) - 1
        images: dict[str, Member] = {}
        metas: dict[str, Member] = {}
        for member in self._members(tar, name):
            key, extension = split_name(member.name)
            if extension == "json":
                metas.setdefault(key, member)
            elif extension != "txt":
                self._add_image(number, member)
                if extension in IMAGE_EXTENSIONS:
                    images.setdefault(key, member)
        side = tar.with_suffix(".parquet")
        urls = self._side_urls(side) if has_urls(side) else self._meta_urls(tar, metas)
        for key, url in urls:
            if key in images:
                self._index.add(f"url {url}", number, images[key].offset, images[key].size)

    def _members(self, tar: Path, name: str) -> Iterator[Member]:
        odd: list[str] = []
        try:
            for entry in walk_tar(tar):
                if isinstance(entry, Member):
                    yield entry
                elif entry.broken:
                    self.problems.append(BadItem(name, 0, "damaged tar", entry.problem))
                else:
                    odd.append(f"{entry.name[:120]!r} ({entry.problem})")
        except OSError as error:
            self.problems.append(BadItem(name, 0, "unreadable file", str(error.strerror)))
        if odd:
            detail = f"{len(odd):,} entries are left out, such as {odd[0]}"
            self.problems.append(BadItem(name, 0, "not an ordinary file", detail))

    def _add_image(self, number: int, member: Member) -> None:
        name = member.name.removeprefix("./")
        self._index.add(f"name {name}", number, member.offset, member.size)
        if "/" in name:
            self._index.add(f"last {name.rpartition('/')[2]}", number, member.offset, member.size)

    def _add_folders(self, folder: Path) -> None:
        for side in sorted(folder.glob("*.parquet")):
            below = side.with_suffix("")
            if below.is_dir() and has_urls(side):
                for key, url in self._side_urls(side):
                    self._index.add(f"url {url}", len(self._tars), len(self._files), 0)
                    self._files.append(f"{below.name}/{key}.jpg")

    def _side_urls(self, file: Path) -> Iterator[tuple[str, str]]:
        for rows in read_rows(file, file.name, ("key", "url")):
            if isinstance(rows, BadItem):
                self.problems.append(rows)
                continue
            keys, urls = (rows.batch.column(column).to_pylist() for column in ("key", "url"))
            yield from ((str(key), str(url)) for key, url in zip(keys, urls, strict=True))

    def _meta_urls(self, tar: Path, metas: dict[str, Member]) -> Iterator[tuple[str, str]]:
        for key, member in metas.items():
            try:
                url = parse_object(read_slice(tar, member.offset, member.size, member.name, MAX_META_BYTES)).get("url")
            except (BadValue, UserError) as error:
                self.problems.append(BadItem(shown(tar, tar), 0, "bad json", f"{member.name[:120]!r}: {error}"))
                continue
            if isinstance(url, str):
                yield key, url


def images_place(option: Path | None, corpus: Path) -> Path | None:
    """Where the images are: as the option says, or ``images`` beside the corpus's files where that exists."""
    if option is not None:
        return option
    beside = (corpus if corpus.is_dir() else corpus.parent) / "images"
    return beside if beside.exists() else None


def has_urls(side: Path) -> bool:
    """Is there a side file that tells keys and URLs?"""
    schema = read_schema(side) if side.is_file() else None
    return schema is not None and all(schema.names.count(column) == 1 for column in ("key", "url"))
