"""Images of a record by name or URL, wherever a dataset keeps them: a folder, tars, or img2dataset's output.

    FOLDER/NAME                 by name; links may not lead out of the folder
    FOLDER/SUBFOLDER/NAME       by NAME where the finder is made so, as MMC4's download script writes images
    *.tar                       by name in the tar, or by the last part of that name
    NAME.tar, NAME.parquet      also by the URL of the image: from the side file (columns ``key`` and ``url``), or
                                else from the KEY.json beside KEY.jpg
    NAME/KEY.jpg, NAME.parquet  by URL, the same in folders, whatever the extension; also one folder down

Loaders are functions of plain values, so that records can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import FileStore, FolderStore, has_file
from lcl_core.data.formats.base import link_error
from lcl_core.data.formats.image_index import ImageIndex, open_image_index
from lcl_core.data.formats.tar_index import read_range
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.records import BadItem, RecordImage


def read_folder_image(root: Path, name: str) -> bytes:
    """A file below a folder. Raises: UserError (``bad_path``, ``file_missing`` …), whatever the name is like."""
    return read_stored_image(FolderStore(root), name)


def read_stored_image(store: FileStore, name: str) -> bytes:
    """A file of a folder or a zip. Raises: UserError, likewise."""
    try:
        return store.read(name, MAX_IMAGE_BYTES)
    except OSError as error:  # a zip on a disk that fails
        raise UserError("the file cannot be read", code="file_unreadable", file=name) from error


def inline_image(data: bytes, name: str) -> bytes:
    """An image whose bytes came with its record. Raises: UserError ``file_too_large``."""
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_large_error(name, MAX_IMAGE_BYTES)
    return data


def missing_image(name: str, where: str) -> bytes:
    """An image that is nowhere. Raises: UserError ``file_missing``."""
    raise UserError(f"the image is not in {where}", code="file_missing", file=name)


def _too_large_error(name: str, max_bytes: int) -> UserError:
    return UserError(f"the file is larger than {max_bytes:,} bytes", code="file_too_large", file=name)


class ImageFinder:
    """Finds images by name or URL.

    Tars and side files are indexed when it is made, see ``ImageIndex``. Of two images of one name the first is found.

    Args:
        path: a folder of images, of tars or of img2dataset's output, or one tar; None: there are no images.
        subfolders: index the images one folder down by their names, too.

    Attributes:
        problems: what could not be indexed, for the reader to pass on.

    Raises:
        UserError: ``bad_option`` (field ``images``) when nothing exists at ``path``.
    """

    def __init__(self, path: Path | None, *, subfolders: bool = False) -> None:
        if path is not None and not path.exists():
            raise UserError("there is no such folder or tar of images", code="bad_option", field="images", file=path)
        self._place = path
        self._folder = path if path is not None and path.is_dir() else None
        self._index = ImageIndex() if path is None else open_image_index(path, subfolders=subfolders)
        self.problems: list[BadItem] = self._index.problems

    def find(self, name: str, url: str | None = None, image_name: str | None = None) -> RecordImage:
        """The image of that name, or else the one from that URL, as an image ``called`` so (or ``name``).

        Nothing is read yet: that an image is missing, too large or unreadable shows when it is loaded.
        """
        entry = self._index.names.find(f"name {name.removeprefix('./')}") or self._index.names.find(f"last {name}")
        if entry is None and url:
            entry = self._index.names.find(f"url {url}")
        return RecordImage(image_name or name, self._load(entry, name))

    def find_url(self, url: str, image_name: str) -> RecordImage:
        """The image from that URL, likewise."""
        entry = self._index.names.find(f"url {url}")
        if entry is None:
            return RecordImage(image_name, partial(missing_image, url, self._where))
        return RecordImage(image_name, self._load(entry, url))

    def _load(self, entry: tuple[int, int, int] | None, name: str) -> Callable[[], bytes]:
        located = None if entry is None else self._index.locate(*entry)
        if isinstance(located, tuple):
            return partial(read_range, *located, name)
        if self._folder is not None:
            return partial(read_folder_image, self._folder, located or name)
        return partial(missing_image, name, self._where)

    @property
    def _where(self) -> str:
        return "the images at hand" if self._place is None else self._place.name


def find_images(option: Path | None, corpus: Path) -> Path | None:
    """Where the images are: as the option says, or ``images`` beside the corpus's files where that exists.

    Raises: UserError ``bad_path`` where ``images`` is a link that leads out of the corpus.
    """
    if option is not None:
        return option
    root = corpus if corpus.is_dir() else corpus.parent
    folder = root / "images"
    if not folder.exists():
        return None
    if not folder.resolve().is_relative_to(root.resolve()):
        raise link_error(folder, "the link leads out of the folder", "images")
    return folder


class NamedImages:
    """Looks a name up in several folders.

    Args:
        path: a folder or tar, see :class:`ImageFinder`.

    Attributes:
        problems: what could not be indexed, for the reader to pass on.
    """

    def __init__(self, path: Path) -> None:
        self._finder = ImageFinder(path)
        self._store = FolderStore(path) if path.is_dir() else None
        self.problems: list[BadItem] = self._finder.problems

    def find(self, names: Iterable[str], image_name: str, url: str | None = None) -> RecordImage:
        """The first of ``names`` that exists; else the first of them, or ``url``, resolved when loaded."""
        candidates = list(dict.fromkeys(names))
        name = next((name for name in candidates if self.has(name)), candidates[0])
        return self._finder.find(name, url, image_name)

    def find_url(self, url: str, image_name: str) -> RecordImage:
        return self._finder.find_url(url, image_name)

    def has(self, name: str) -> bool:
        """Whether the folder has such a file."""
        return self._store is not None and has_file(self._store, name)
