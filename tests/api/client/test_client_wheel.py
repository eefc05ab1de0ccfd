"""The client's own wheel: it needs httpx alone."""

import subprocess
import sys
import zipfile
from email import message_from_bytes

import pytest

from scripts.build_client import build_wheel

ALLOWED = ["httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi", "typing_extensions", "lcl_client"]
# refuses everything beside the standard library and ALLOWED, as an environment does that has nothing else
ALONE = f"""
import importlib.abc, json, pkgutil, sys

class OnlyAllowed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        first = name.partition(".")[0]
        if first not in {ALLOWED!r} and first not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {{first!r}}", name=first)

wheel, url, key = sys.argv[1:]
sys.path.insert(0, wheel)
sys.meta_path.insert(0, OnlyAllowed())
"""


def run_alone(script, *arguments):
    command = [sys.executable, "-c", ALONE + script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_it_has_one_package_and_needs_httpx(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [archive.read(name) for name in names if name.endswith("METADATA")]
        typed = "lcl_client/py.typed" in names
        sources = "".join(archive.read(name).decode() for name in names if name.endswith(".py"))
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lcl_client"}
    assert typed
    assert "api.client" not in sources
    required = message_from_bytes(metadata).get_all("Requires-Dist") or []
    assert [each.partition("<")[0].partition(">")[0] for each in required if "extra" not in each] == ["httpx"]
    assert wheel.stat().st_size < 1 << 20


def test_every_module_but_zero_shot_is_imported_without_other_libraries(wheel):
    script = """
import lcl_client
refused = {}
for module in pkgutil.walk_packages(lcl_client.__path__, "lcl_client."):
    try:
        __import__(module.name)
    except ImportError as error:
        refused[module.name] = str(error)
print(json.dumps(refused))
"""
    expected = "zero-shot classification needs numpy: pip install 'lcl-client[zero-shot]'"
    assert run_alone(script, str(wheel), "", "") == f'{{"lcl_client.zero_shot": "{expected}"}}\n'


def test_it_talks_to_the_service(wheel, live_service, encoder):
    script = """
from lcl_client import ApiError, Client, UserError

with Client(url, key) as client:
    names = [encoder["name"] for encoder in client.encoders()]
    vectors = client.embed_texts("tiny", ["a red square"])
    try:
        client.encoder("absent")
    except ApiError as error:
        code = error.code
print(json.dumps([names, len(vectors[0]), code]))
"""
    key = live_service.keys["viewer"]
    assert run_alone(script, str(wheel), live_service.url, key) == '[["tiny"], 24, "not_found"]\n'
