"""Which encoders are in memory, with real ones."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.engine import EncoderEngine, estimate_memory
from lcl_core.encoders.files import hash_files
from lcl_core.serving import model_pool
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.model_pool import ModelPool


class CountingLoader:
    """Loads for real, counts, and can be held up."""

    def __init__(self):
        self.loads: list[Path] = []
        self.release = threading.Event()
        self.release.set()

    def __call__(self, directory, registered=None):
        self.loads.append(directory)
        assert self.release.wait(180)
        return BatchedEngine(EncoderEngine(directory, device="cpu", warm_up=False))


@pytest.fixture
def loader():
    return CountingLoader()


@pytest.fixture
def pool(loader, encoder):
    """With room for two of the encoders, which are all of one size, but not for three."""
    pool = ModelPool(3 * estimate_memory(encoder, "cpu") - 1, device="cpu", load=loader)
    yield pool
    pool.close()


def test_an_encoder_is_loaded_once_for_many_callers(pool, loader, encoder):
    loader.release.clear()
    with ThreadPoolExecutor(8) as callers:
        futures = [callers.submit(pool.get, encoder) for _ in range(8)]
        loader.release.set()
        sessions = {id(future.result(30)) for future in futures}
    assert len(sessions) == 1
    assert loader.loads == [encoder.resolve()]


def test_the_least_recently_used_leaves(pool, loader, encoders):
    first, second, third = encoders
    held = pool.get(first)
    pool.get(second)
    pool.get(first)
    pool.get(third)
    assert pool.loaded == [first.resolve(), third.resolve()]
    pool.get(second)
    assert pool.loaded == [third.resolve(), second.resolve()]
    assert held.embed_texts(["still here"]).shape == (1, held.dim), "who holds it may go on"
    assert len(loader.loads) == 4


def test_without_eviction_only_free_room_is_used(pool, loader, encoders):
    first, second, third = encoders
    pool.get(first)
    pool.get(second, evict=False)
    with pytest.raises(UserError) as refused:
        pool.get(third, evict=False)
    assert refused.value.code == "busy"
    assert pool.loaded == [first.resolve(), second.resolve()]
    pool.get(third)
    assert pool.loaded == [second.resolve(), third.resolve()], "who may evict others need not wait"
    assert pool.get(second, evict=False) is pool.get(second), "one in memory needs no room"


def test_calls_that_wait_for_a_load_are_counted(pool, loader, encoder, eventually):
    loader.release.clear()
    with ThreadPoolExecutor(2) as callers:
        futures = [callers.submit(pool.get, encoder) for _ in range(2)]
        eventually(lambda: pool.loading == 1, "one for both calls")
        loader.release.set()
        for future in futures:
            future.result(180)
    pool.get(encoder)
    assert pool.loading == 0


def test_as_many_leave_as_the_next_needs_room_for(loader, encoders):
    small, other, large = (path.resolve() for path in encoders)
    sizes = {small: 2, other: 3, large: 6}
    pool = ModelPool(max_bytes=8, load=loader, measure=sizes.__getitem__)
    held = pool.get(small)
    pool.get(other)
    assert pool.loaded_bytes == 5
    pool.get(large)
    assert pool.loaded == [large], "the small one beside it would have fitted, but is the least recently used"
    gc.collect()
    assert pool.loaded_bytes == 6 + 2, "what is held is still in memory"
    del held
    gc.collect()
    assert pool.loaded_bytes == 6
    pool.get(small)
    assert pool.loaded == [large, small]
    pool.close()


def test_an_encoder_larger_than_the_budget_is_refused_and_none_leaves_for_it(loader, encoders):
    size = estimate_memory(encoders[0], "cpu")
    pool = ModelPool(size, device="cpu", load=loader)
    pool.get(encoders[0])
    pool.max_bytes = size - 1
    with pytest.raises(UserError, match=f"takes {size:,} .* may take {size - 1:,}; LCL_ENCODER_MEMORY_BYTES") as caught:
        pool.get(encoders[1])
    assert (caught.value.code, caught.value.file) == ("too_large", str(encoders[1].resolve()))
    assert pool.loaded == loader.loads == [encoders[0].resolve()]
    pool.close()


def test_a_failed_load_is_reported_and_tried_again(pool, loader, encoder, tmp_path):
    broken = Path(shutil.copytree(encoder, tmp_path / "broken"))
    config = (broken / "config.json").read_bytes()
    (broken / "config.json").write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(UserError, match="this is not JSON"):
            pool.get(broken)
    assert pool.loaded == []
    (broken / "config.json").write_bytes(config)
    assert pool.get(broken).embed_texts(["ant"]).shape[0] == 1
    with pytest.raises(UserError) as caught:
        pool.get(tmp_path / "nowhere")
    assert caught.value.code == "encoder_unreadable"


def test_a_failed_load_of_the_same_files_is_not_tried_again_at_once(encoder, monkeypatch):
    attempts: list[Path] = []

    def fail(directory, registered):
        attempts.append(directory)
        raise UserError("its weights are damaged", code="encoder_unreadable", file=directory)

    pool = ModelPool(device="cpu", load=fail)
    caught = []
    for _ in range(3):
        with pytest.raises(UserError, match="are damaged") as failure:
            pool.get(encoder)
        caught.append(failure.value)
    assert len(attempts) == 1
    assert {(each.code, each.file) for each in caught} == {("encoder_unreadable", str(encoder.resolve()))}
    monkeypatch.setattr(model_pool, "FAILURE_SECONDS", 0.0)
    for _ in range(2):
        with pytest.raises(UserError):
            pool.get(encoder)
    assert len(attempts) == 3
    pool.close()


def test_one_that_had_to_leave_and_is_in_use_is_not_loaded_again(pool, loader, encoders):
    session = pool.get(encoders[0])
    for other in encoders[1:]:
        pool.get(other)
    assert encoders[0].resolve() not in pool.loaded
    assert pool.get(encoders[0]) is session
    assert len(loader.loads) == 3


def test_replaced_weights_are_loaded_anew(pool, loader, encoders, tmp_path):
    place = Path(shutil.copytree(encoders[0], tmp_path / "encoder"))
    old = pool.get(place).hash
    (place / "new").write_bytes((encoders[1] / "model.safetensors").read_bytes())
    (place / "new").replace(place / "model.safetensors")
    assert pool.get(place).hash != old
    assert pool.loaded == [place.resolve()]


def test_a_closed_pool_stops_its_encoders(pool, encoder):
    session = pool.get(encoder)
    pool.close()
    with pytest.raises(UserError, match="unloaded"):
        session.embed_texts(["ant"])
    with pytest.raises(UserError) as caught:
        pool.get(encoder)
    assert caught.value.code == "busy"


def test_no_torch_before_the_first_encoder():
    program = (
        "import sys; from lcl_core.collections import projection, writer; from lcl_core.encoders import captioning\n"
        "from lcl_core.serving import model_pool\n"
        "model_pool.ModelPool(); writer.CollectionWriter; projection.project_pca; captioning.GenerationConfig()\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def flip(file):
    whole = bytearray(file.read_bytes())
    whole[-100] ^= 1
    file.write_bytes(whole)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_files_are_compared_when_they_are_loaded(encoder, tmp_path, name):
    own = Path(shutil.copytree(encoder, tmp_path / "own"))
    registered = hash_files(own)
    pool = ModelPool(device="cpu")
    first = pool.get(own, registered)
    assert pool.get(own, registered) is first
    assert first.hash == registered["model.safetensors"]
    flip(own / name)
    for _ in range(2):
        with pytest.raises(UserError, match=f"{name} of this encoder changed") as caught:
            pool.get(own, registered)
        assert caught.value.code == "encoder_changed"
    assert pool.loaded == []
    flip(own / name)
    assert pool.get(own, registered).hash == first.hash, "restored, it is loaded again"
    pool.close()


def test_who_is_dropped_is_given_up(pool, encoder):
    held = pool.get(encoder)
    pool.drop(encoder)
    assert pool.loaded == []
    assert held.embed_texts(["ant"]).shape[0] == 1, "who uses it may go on"
    assert pool.get(encoder) is not held
