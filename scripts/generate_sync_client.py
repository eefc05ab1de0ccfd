"""Generate the synchronous client ``api/client/_sync`` from the asynchronous ``api/client/_async``, with unasync.

python scripts/generate_sync_client.py            writes the files
python scripts/generate_sync_client.py --check    exit status 1, and the names of the files that differ
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).resolve().parents[1]
SOURCE, TARGET = ROOT / "api/client/_async", ROOT / "api/client/_sync"
REPLACEMENTS = {
    "_async": "_sync",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "aiter_text": "iter_text",
    "aread": "read",
    "AsyncClient": "Client",  # of httpx, and ours
}
NOTICE = "# Generated from api/client/_async/{name} by scripts/generate_sync_client.py. Do not edit.\n"
PACKAGE = '"""The synchronous client."""\n'


def generate() -> dict[str, str]:
    """{file name: text} of the synchronous client."""
    sources = {file.name: file.read_text(encoding="utf-8") for file in sorted(SOURCE.glob("*.py"))}
    pairs = re.findall(r"\b((?:Async(?=[A-Z])|async_)(\w+))", "\n".join(sources.values()))
    standard = {"AsyncIterator", "AsyncGenerator"}  # unasync knows them
    names = {name: rest for name, rest in pairs if name not in standard} | REPLACEMENTS
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "_async"), Path(folder, "_sync")
        source.mkdir()
        for name, text in sources.items():
            (source / name).write_text(text, encoding="utf-8")
        rule = unasync.Rule(f"{source}/", f"{target}/", additional_replacements=names)
        unasync.unasync_files([str(file) for file in source.iterdir()], [rule])
        for file in target.iterdir():
            text = PACKAGE if file.name == "__init__.py" else file.read_text(encoding="utf-8")
            file.write_text(NOTICE.format(name=file.name) + text, encoding="utf-8")
        for command in (("check", "--fix-only", "--select", "I"), ("format",)):
            settings = ("--config", str(ROOT / "pyproject.toml"), "--quiet", "--no-cache", str(target))
            subprocess.run([sys.executable, "-m", "ruff", *command, *settings], check=True, cwd=ROOT)
        return {file.name: file.read_text(encoding="utf-8") for file in sorted(target.iterdir())}


def outdated() -> list[str]:
    """Names of committed files that differ from the generated ones."""
    committed = {file.name: file.read_text(encoding="utf-8") for file in TARGET.glob("*.py")}
    generated = generate()
    return sorted(name for name in committed.keys() | generated.keys() if committed.get(name) != generated.get(name))


def main() -> int:
    if "--check" in sys.argv[1:]:
        names = outdated()
        sys.stderr.writelines(f"outdated: {TARGET / name}\n" for name in names)
        return int(bool(names))
    TARGET.mkdir(exist_ok=True)
    for name, text in generate().items():
        (TARGET / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
