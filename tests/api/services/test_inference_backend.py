"""Open collections, with stubs in place of the collections."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

from api.core.settings import ApiSettings
from api.services import inference_backend
from api.services.inference_backend import InferenceBackend
from api.services.inference_device import InferenceDevice


class StubCollection:
    """As an open collection without changes."""

    def __init__(self, base):
        self.base = base

    def with_changes(self, *_):
        return self.base


def test_a_collection_that_is_being_opened_stops_no_other(tmp_path, monkeypatch):
    slow, quick = tmp_path / "slow", tmp_path / "quick"
    slow.mkdir()
    quick.mkdir()
    opened = []
    begun, gate = threading.Event(), threading.Event()

    def open_files(directory, ask=None):
        opened.append(directory)
        if directory == slow:
            begun.set()
            assert gate.wait(60)
        return directory

    monkeypatch.setattr(inference_backend, "Collection", SimpleNamespace(open=open_files))
    monkeypatch.setattr(inference_backend, "_OpenCollection", StubCollection)
    device = cast(InferenceDevice, SimpleNamespace(torch_device="cpu"))
    backend = InferenceBackend(ApiSettings(home=tmp_path, _env_file=None), lambda *_: None, device)
    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(backend.collection, slow) for _ in range(2)]
        assert begun.wait(60)
        try:
            assert clients.submit(backend.collection, quick).result(30) == quick
        finally:
            gate.set()
        assert [each.result(60) for each in waiting] == [slow, slow]
    assert opened == [slow, quick], "each once"
    backend.close()
