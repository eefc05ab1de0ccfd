"""Build ``lcl-client``: the client of the service as a wheel of its own, which needs httpx and nothing else of LCL.

The product imports the client as ``api.client``. The wheel has the same modules as ``lcl_client``, and as
``lcl_client._core`` those of ``lcl_core`` that they import. There is one source, and an application with a package
``api`` of its own can use the client.

python -m scripts.build_client                    builds the wheel in build/
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "api.client"
PREFIXES = {"api.client": "lcl_client", "lcl_core": "lcl_client._core"}  # of module names, in the product and the wheel
EXTRAS = {"zero-shot": ("numpy",)}
README = """# lcl-client

Client of an LCL service. It needs httpx. Zero-shot classification also needs numpy: `lcl-client[zero-shot]`.

    from lcl_client import Client

    with Client("http://127.0.0.1:8765", "lcl_…") as client:
        vectors = client.embed_texts("drawings-v5", ["a red bus"])

Without arguments, address and key come from `LCL_API_URL` and `LCL_API_KEY`.
"""


def client_modules() -> dict[str, str]:
    """{path in the wheel: source} of the client and of the modules of ``lcl_core`` that it imports."""
    folder = ROOT / SOURCE.replace(".", "/")
    waiting = {_module_name(file) for file in folder.rglob("*.py")}
    sources: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        file = _module_file(name)
        sources[name] = file.read_text(encoding="utf-8")
        imported = {each for each in _imported_modules(sources[name]) if each.startswith("lcl_core.")}
        parents = {name.rpartition(".")[0]} if name.startswith("lcl_core.") else set()
        waiting |= (imported | parents) - sources.keys()
    files = {}
    for name, text in sources.items():
        file = Path(_renamed(name).replace(".", "/"))
        is_package = _module_file(name).name == "__init__.py"
        files[str(file / "__init__.py" if is_package else file.with_suffix(".py"))] = _renamed(text)
    return dict(sorted(files.items()))


def _module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_file(name: str) -> Path:
    path = ROOT / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported_modules(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return named | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def _renamed(text: str) -> str:
    """``text`` with the names of modules that they have in the wheel."""
    for prefix, name in PREFIXES.items():
        text = re.sub(rf"(?<![\w./]){re.escape(prefix)}\b(?![/-])", name, text)
    return text


def write_project(folder: Path) -> None:
    """Write the project that the wheel is built from into ``folder``, which exists."""
    product = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [*product["dependencies"], *product["optional-dependencies"]["service"]]
    versions = {re.split(r"[^\w-]", each, maxsplit=1)[0]: each for each in required}
    project = {
        "name": "lcl-client",
        "version": product["version"],
        "description": "Client of LCL: vision encoders from interleaved documents",
        "readme": "README.md",
        "license": product["license"],
        "license-files": product["license-files"],
        "requires-python": product["requires-python"],
        "dependencies": [versions["httpx"]],
    }
    extras = {name: [versions[each] for each in libraries] for name, libraries in EXTRAS.items()}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    data = {"lcl_client": ["py.typed"]}
    tables = {
        "build-system": build,
        "project": project,
        "project.optional-dependencies": extras,
        "tool.setuptools.packages.find": {"include": ["lcl_client*"]},
        "tool.setuptools.package-data": data,
    }
    (folder / "pyproject.toml").write_text("\n".join(_toml_table(*table) for table in tables.items()), encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")
    for name in product["license-files"]:
        shutil.copyfile(ROOT / name, folder / name)
    for path, text in {**client_modules(), "lcl_client/py.typed": ""}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _toml_table(name: str, values: dict[str, Any]) -> str:
    """Strings and lists of strings have one notation in TOML and JSON."""
    rows = (f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return f"[{name}]\n{''.join(rows)}"


def build_wheel(target: Path) -> Path:
    """The wheel, built in ``target`` without the network. Raises: subprocess.CalledProcessError with pip's output."""
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder))
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
        options = ("--no-build-isolation", "--no-deps", "--wheel-dir", str(target))
        subprocess.run([*pip, *options, folder], check=True, stdout=sys.stderr)
    return max(target.glob("lcl_client-*.whl"), key=lambda file: file.stat().st_mtime)


if __name__ == "__main__":
    sys.stdout.write(f"{build_wheel(ROOT / 'build').relative_to(ROOT)}\n")
