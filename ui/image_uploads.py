"""Images of an upload: single files, files of a folder, and archives, within limits; and thumbnails of them.

An image is named by its path in the archive or the chosen folder, so that the folder above it may be its label. An
archive is read in memory, member by member; nothing of it is written to the disk.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from api.client import ApiError, UserError
from api.client.payloads import ARCHIVE_ERRORS, Skipped, check_directory, format_bytes, is_system_file
from ui.common import MAX_IMAGE_BYTES, read_upload
from ui.session_files import path_below_upload

MAX_IMAGES = 64  # of an upload
MAX_TOTAL_BYTES = 256 * 2**20  # unpacked
MAX_DIRECTORY_BYTES = 4 * 2**20  # of an archive's list of members, before it is parsed
MAX_THUMBNAIL_PIXELS = 16_000_000  # of an image that is decoded
THUMBNAIL_SIDE = 96  # twice what is shown, for dense screens
THUMBNAIL_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # of these: the page shows a thumbnail of each image
NOT_AN_IMAGE = f"not an image; {', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)} and zip are taken"
_ARCHIVE_ERRORS = (*ARCHIVE_ERRORS, OSError)


@dataclass(frozen=True)
class UploadedImage:
    """An image file that has not been read yet; ``read`` raises UserError."""

    name: Path
    read: Callable[[], bytes] = field(repr=False)


def find_images(paths: Sequence[str], root: Path) -> tuple[list[UploadedImage], list[Skipped]]:
    """Images among uploaded files, below ``root``, and in archives, in order; what is left out, and why."""
    images: list[UploadedImage] = []
    skipped: list[Skipped] = []
    for path in map(Path, paths):
        try:
            own = _archive_images(path, skipped) if path.suffix.lower() == ".zip" else _file_image(path, root)
        except (UserError, *_ARCHIVE_ERRORS) as error:
            reason = "the archive cannot be read" if isinstance(error, _ARCHIVE_ERRORS) else str(error)
            skipped.append(Skipped(Path(path.name), reason))
            continue
        images += own
    over = images[MAX_IMAGES:]
    skipped += [Skipped(image.name, f"only the first {MAX_IMAGES} images are taken") for image in over]
    return unique_names(images[:MAX_IMAGES]), skipped


def unique_names(images: Sequence[UploadedImage]) -> list[UploadedImage]:
    """The images, with a number behind names that earlier ones have."""
    found: Counter[Path] = Counter()
    renamed = []
    for image in images:
        found[image.name] += 1
        stem = f"{image.name.stem} ({found[image.name]})"
        name = image.name if found[image.name] == 1 else image.name.with_stem(stem)
        renamed.append(replace(image, name=name))
    return renamed


def read_images(images: Sequence[UploadedImage], skipped: list[Skipped]) -> Iterator[tuple[Path, bytes]]:
    """Name and bytes of each image, read one by one; those that cannot be read are added to ``skipped``."""
    total = 0
    for image in images:
        try:
            data = image.read()
            total += len(data)
            if total > MAX_TOTAL_BYTES:
                raise UserError(f"the images have more than {format_bytes(MAX_TOTAL_BYTES)} together")
        except UserError as error:
            skipped.append(Skipped(image.name, str(error)))
            continue
        yield image.name, data


def thumbnail(data: bytes) -> str:
    """A small copy of an image as a data URL; empty if it is too large to be decoded here, or unreadable."""
    try:
        with Image.open(io.BytesIO(data), formats=THUMBNAIL_FORMATS) as opened:
            if opened.width * opened.height > MAX_THUMBNAIL_PIXELS:
                return ""
            opened.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            small = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's for broken files
        return ""
    out = io.BytesIO()
    small.save(out, "webp", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _file_image(path: Path, root: Path) -> list[UploadedImage]:
    if is_system_file(path.name):
        return []
    if not _is_image(path.name):
        raise UserError(NOT_AN_IMAGE)
    return [UploadedImage(path_below_upload(path, root), partial(_read_file, path))]


def _read_file(path: Path) -> bytes:
    try:
        return read_upload(str(path))
    except ApiError as error:
        raise UserError(f"larger than {format_bytes(MAX_IMAGE_BYTES)}") from error
    except OSError as error:
        raise UserError("the file is no longer kept; choose it again") from error


def _archive_images(path: Path, skipped: list[Skipped]) -> list[UploadedImage]:
    """Images of an archive; other members are added to ``skipped``. Raises: UserError, _ARCHIVE_ERRORS."""
    check_directory(path, MAX_DIRECTORY_BYTES)
    images = []
    archive = zipfile.ZipFile(path)  # open as long as one of its images may be read
    for member in archive.infolist():
        parts = [part for part in PurePosixPath(member.filename).parts if part not in ("/", "..")]
        if member.is_dir() or not parts or any(map(is_system_file, parts)):
            continue
        name = Path(*parts)
        if not _is_image(name.name):
            skipped.append(Skipped(name, NOT_AN_IMAGE))
        elif member.file_size > MAX_IMAGE_BYTES:
            skipped.append(Skipped(name, f"larger than {format_bytes(MAX_IMAGE_BYTES)}"))
        else:
            images.append(UploadedImage(name, partial(_read_member, archive, member)))
    return images


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as opened:
            data = opened.read(MAX_IMAGE_BYTES + 1)
    except _ARCHIVE_ERRORS as error:
        raise UserError("it cannot be unpacked; it may be damaged or encrypted") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise UserError(f"larger than {format_bytes(MAX_IMAGE_BYTES)}")
    return data


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
