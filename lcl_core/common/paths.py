"""Names of objects, texts that can be stored, allowed data roots, and the home folder.

A root is a folder or a URL prefix of object storage; a path or URL of a request is resolved inside them. A URL is
compared as text, so it must be in a form with one meaning: no chained protocols, user, query or dot segments.
Credentials are never part of it; a URL that might hold some is not repeated in a message.

The home folder (``LCL_HOME``) is created, checked and closed to other users, with the secret files in it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from lcl_core.common.errors import UserError
from lcl_core.common.files import read_or_create

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
NAME_RULE = "a name starts with a letter or digit and holds letters, digits, . _ and - only, 100 characters at most"
Root = Path | str  # a folder, or a URL without a slash at its end
ROOTS_SETTING = "LCL_DATA_ROOTS"
_LOCAL = ("file", "local")
_FORM = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]+)(/.*)?")
# an element of a list as in PATH: a URL, whose colons do not separate, or text without a colon
_ELEMENT = re.compile(r"[a-z][a-z0-9+.-]*://[^:/]+(?::\d+)?(?:/[^:]*)?|[^:]+")


def is_url(text: str) -> bool:
    """Whether a path is a URL."""
    return "://" in text


def parse_roots(text: str) -> list[str]:
    """Elements of the setting: ``/data:/more:s3://bucket/prefix``, or a JSON list. Raises: ValueError."""
    return json.loads(text) if text.startswith("[") else _ELEMENT.findall(text)


def parse_root(text: str) -> Root:
    """A folder, or a URL in canonical form. Raises: ValueError."""
    if not is_url(text):
        return Path(text)
    problem = url_problem(text)
    if problem is None and text.partition("://")[0] in _LOCAL:
        problem = "is a folder; name it by its path"
    if problem is not None:
        raise ValueError(f"a URL among the roots {problem}")
    return text.rstrip("/")


def url_problem(url: str) -> str | None:
    """Why this URL is rejected, in words that follow "the URL"; None: it is in canonical form."""
    form = _FORM.fullmatch(url)
    if "::" in url:
        return "chains protocols; give protocol://bucket/prefix"
    if form is None or not url.isprintable() or "\\" in url:
        return "is not of the form protocol://bucket/prefix"
    _, host, path = form.groups(default="")
    if "@" in host:
        return "names a user; credentials come from the environment of the api and the workers alone"
    if "?" in url or "#" in url:
        return "has a query or a fragment; credentials come from the environment of the api and the workers alone"
    if not host.isascii() or "%" in host:
        return "names a host that is not plain ASCII"
    if any(_is_unsafe_segment(part) for part in path.rstrip("/").split("/")[1:]):
        return "has a part that is empty, . or .."
    return None


def _is_unsafe_segment(part: str) -> bool:
    """Empty, dots, or what a server might decode to these or to further segments."""
    while (decoded := unquote(part)) != part:
        part = decoded
    return part in ("", ".", "..") or "/" in part or "\\" in part or not part.isprintable()


def overlaps(root: Root, url: str) -> bool:
    """Whether one of the two contains the other. ``url`` may be ``file://`` and an absolute path."""
    scheme, _, rest = url.partition("://")
    if isinstance(root, Path):
        real, other = root.expanduser().resolve(), Path(rest).resolve()
        return scheme in _LOCAL and (real.is_relative_to(other) or other.is_relative_to(real))
    return f"{root}/".startswith(f"{url}/") or f"{url}/".startswith(f"{root}/")


def resolve_allowed(path: str | Path, roots: Sequence[Root], field: str = "path") -> Root:
    """Real path, links resolved, if it exists inside ``roots``; or the URL, if it lies below one of them.

    Whether a URL exists is not checked.
    """
    if is_url(str(path)):
        url = str(path)
        problem = url_problem(url)
        if problem is not None:
            raise UserError(f"the URL {problem}", field=field)
        bare = url.rstrip("/")
        if not any(isinstance(root, str) and f"{bare}/".startswith(f"{root}/") for root in roots):
            raise _forbidden(f"{url} is outside the URLs that may be used", "name a URL below one", roots, field)
        return bare
    real = _resolve_path(path, field)
    folders = [root.expanduser().resolve() for root in roots if isinstance(root, Path)]
    if not any(real.is_relative_to(folder) for folder in folders):
        raise _forbidden(f"{path} is outside the folders that may be read", "put it there", roots, field)
    if not os.path.exists(real):  # not the method of Path, which raises for names that no file can have
        raise UserError("there is no such file or folder", code="file_missing", field=field, file=path)
    return real


def _resolve_path(path: str | Path, field: str) -> Path:
    """Resolve links. Relative paths and ``~`` are rejected: they depend on the process."""
    shown = str(path).encode("utf-8", "replace").decode()[:200]
    if not os.path.isabs(path):
        message = f"{shown!r} is not an absolute path, such as /data/wiki; name the whole path on the server"
        raise UserError(message, field=field)
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, half a surrogate pair, too long, a loop of links
        message = f"{shown!r} cannot be followed; name a path that exists"
        raise UserError(message, field=field) from error


def _forbidden(what: str, way_out: str, roots: Sequence[Root], field: str) -> UserError:
    listed = ", ".join(str(root.expanduser().resolve() if isinstance(root, Path) else root) for root in roots)
    message = f"{what} ({listed}); {way_out}, or add its folder or URL to {ROOTS_SETTING} of the api and the workers"
    return UserError(message, field=field)


PRIVATE_UMASK = 0o077
_GROUP_AND_OTHERS = 0o077  # bits of group and others


def private_umask() -> None:
    """Files made by this process and its children are readable by their user only."""
    os.umask(PRIVATE_UMASK)


def prepare_home(home: Path) -> None:
    """Create the folder if missing; remove group's and others' rights from it.

    What belongs to another user, such as a volume made by a cluster, keeps its rights, as does a folder with the sticky
    bit, which users share on purpose.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        raise _home_unusable(home, "is a file, not a folder; name a folder") from None
    except OSError as error:
        message = f"cannot be made ({error.strerror}); name a folder that can be, or mend the one above it"
        raise _home_unusable(home, message) from error
    if not os.access(home, os.W_OK | os.X_OK):  # false on a read-only file system, for root too
        raise _home_unusable(home, "cannot be written; make it writable for this user, or name another folder")
    status = home.stat()
    if status.st_mode & _GROUP_AND_OTHERS and status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX:
        home.chmod(stat.S_IMODE(status.st_mode) & ~_GROUP_AND_OTHERS)


def _home_unusable(home: Path, problem: str) -> UserError:
    return UserError(f"LCL_HOME: {home} {problem}", code="home_unusable")


def load_or_create_secret(file: Path, make: Callable[[], str]) -> str:
    """Secret in ``file``, which ``make`` makes with mode 600 when there is none. All processes get the same."""
    try:
        secret = read_or_create(file, lambda: make() + "\n", mode=0o600)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        message = f"{file} is damaged; remove it, and the next start makes a new one"
        raise UserError(message, code="bad_setting") from error
    if file.stat().st_mode & 0o077:
        file.chmod(0o600)
    return secret


def check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(f"{name[:120]!r}: {NAME_RULE}", field="name")


def replace_surrogates(text: str) -> str:
    """``text`` with U+FFFD for surrogates that have lost their other half: no file and no database can store them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def storable_text(text: str) -> str:
    """As ``replace_surrogates``, and U+FFFD for NUL, which PostgreSQL cannot store."""
    return replace_surrogates(text).replace("\0", "\ufffd")
