"""Base of the closed schemas: bounded reading of small files, strict JSON, validation errors of one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from lcl_core.common.errors import UserError
from lcl_core.common.files import parse_strict_json

SUFFIXES = (".json", ".safetensors", ".txt", ".md")  # of what an encoder is made of: neither pickles nor code
MAX_ENTRIES = 1000  # of a directory, whatever they are
MAX_FILES = 128  # with one of the suffixes
# printable ASCII: every archive, database and log can hold such a name as it is
_FILE_NAME = re.compile(r"[ -~]{1,64}")
MAX_CONFIG = 2 << 20  # bytes
MAX_VOCABULARY = 64 << 20  # bytes: a tokenizer of 256,000 words and 580,000 merges has 34 million
MAX_DIGITS = 40  # transformers writes 10^30 for "no limit" in tokenizer_config.json
# what may be as large as a vocabulary is
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")


def data_files(directory: Path) -> list[Path]:
    """The regular files of an encoder by their names, sorted; links, code and pickles are not among them.

    None where there is no directory.

    Raises: UserError ``encoder_unreadable`` for a directory of too many files, long names or names outside ASCII, or
        small files that are too large; OSError when the directory cannot be listed.
    """
    found: list[Path] = []
    if not directory.is_dir():
        return found
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries, 1):
            if number > MAX_ENTRIES:
                raise schema_error(
                    directory, f"it holds more than {MAX_ENTRIES} files; give an encoder's own directory"
                )
            if entry.name.endswith(SUFFIXES) and entry.is_file(follow_symlinks=False):
                if not _FILE_NAME.fullmatch(entry.name):
                    shown = ascii(entry.name)[1:-1][:80]
                    raise schema_error(
                        directory, f"rename the file {shown!r}: names have 1 to 64 printable ASCII characters"
                    )
                found.append(Path(directory, entry.name))
    if len(found) > MAX_FILES:
        raise schema_error(directory, f"it holds {len(found)} data files, and an encoder has at most {MAX_FILES}")
    for path in found:
        if path.suffix != ".safetensors":
            most = MAX_VOCABULARY if path.name in VOCABULARIES else MAX_CONFIG
            if (size := path.stat().st_size) > most:
                raise schema_error(path, f"its {size:,} bytes are more than such a file may have ({most:,})")
    return sorted(found)


def read_json_object(path: Path, most: int = MAX_CONFIG) -> dict[str, Any]:
    """A JSON object of at most ``most`` bytes. Raises: as :func:`read_json`."""
    found = read_json(path, most)
    if not isinstance(found, dict):
        raise schema_error(path, "this is not a model's configuration or vocabulary, which are JSON objects")
    return found


def read_json(path: Path, most: int = MAX_CONFIG) -> Any:
    """JSON of at most ``most`` bytes.

    Raises: UserError ``encoder_unreadable`` naming the file: no UTF-8, no JSON, a name that stands twice, a number of
        too many digits, nesting without end.
    """
    try:
        with path.open("rb") as file:
            body = file.read(most + 1)
        if len(body) > most:
            raise ValueError(f"it has more than {most:,} bytes")
        if body[:3] == b"\xef\xbb\xbf" or body[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("it begins with a byte order mark, which JSON in UTF-8 has not")
        return parse_strict_json(body.decode("utf-8"), MAX_DIGITS)
    except OSError as error:
        raise schema_error(path, f"{path.name} cannot be read ({error.strerror})") from error
    except (JSONDecodeError, UnicodeDecodeError) as error:
        raise schema_error(path, f"this is not JSON ({error})") from error
    except RecursionError as error:
        raise schema_error(path, "this is JSON nested too deeply") from error
    except ValueError as error:
        raise schema_error(path, f"this JSON is ambiguous or invalid ({error})") from error


def read_lines(path: Path, most: int) -> list[str]:
    """Lines of UTF-8 text, at most ``most``. Raises: UserError ``encoder_unreadable``."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise schema_error(path, f"this is not UTF-8 text ({error})") from error
    if len(lines) > most:
        raise schema_error(path, f"it has {len(lines):,} lines, and {most:,} are allowed")
    return lines


def schema_error(path: Path, reason: str) -> UserError:
    return UserError(reason, code="encoder_unreadable", field="encoder", file=path)


def only(path: Path, found: Sequence[Any], allowed: Callable[[Any], bool], words: str) -> None:
    """Raises: UserError naming the first of ``found`` that is not ``allowed``."""
    for each in found:
        if not allowed(each):
            raise schema_error(path, f"{words}: {str(each)[:80]!r}")


ShortText = Annotated[str, Field(max_length=200)]
Version = Annotated[str, Field(max_length=40)]
Finite = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


def one_of(*names: str) -> AfterValidator:
    """For a text that is one of many names."""

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{name[:80]!r} is not known here")
        return name

    return AfterValidator(check)


Model = TypeVar("Model", bound=BaseModel)
_MAX_UNKNOWN = 1200  # characters of a message that lists names


def validate_model(model: type[Model], found: Any, path: Path) -> Model:
    """Raises: UserError ``encoder_unreadable`` naming the file, every unknown name, or the field and what is wrong."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        wrong = [each for each in errors if each["type"] != "extra_forbidden"]
        if not wrong:
            raise schema_error(path, _unknown_names([_location(each["loc"]) for each in errors])) from error
        where, reason = _location(wrong[0]["loc"]), wrong[0]["msg"].removeprefix("Value error, ")
        raise schema_error(path, f"{where}: {reason}" if where else reason) from error


def _location(parts: Sequence[str | int]) -> str:
    return ".".join(str(part)[:80] for part in parts)


def _unknown_names(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]}: nothing here reads this name; take it out of the file"
    shown = ", ".join(names)
    if len(shown) > _MAX_UNKNOWN:
        shown = f"{shown[:_MAX_UNKNOWN]}…"
    return f"{shown}: nothing here reads these {len(names)} names; take them out of the file"
