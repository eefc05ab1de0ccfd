"""The service computes on the processor, or on one GPU that no run gets."""

import pytest

from api.core.settings import ApiSettings
from api.services import inference_device
from api.services.inference_backend import InferenceBackend
from api.services.inference_device import InferenceDevice, reserve_visibility, resolve_device
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import submit as db_submit
from lcl_core.db.leases import Claim, release_lease
from lcl_core.db.queue import claim_next
from lcl_core.db.session import Database
from lcl_core.db.workers import expire_serving_leases, lease_for_serving, serving_devices
from tests.fake_nvidia_smi import gpu_id, install, listing


@pytest.fixture(autouse=True)
def _two_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(install(tmp_path / "programs", listing(2))))


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    database.migrate()
    yield database
    database.dispose()


def test_the_processor_needs_no_lease_and_hides_every_gpu(database):
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"}
    reserve_visibility("cpu", environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": ""}
    device = InferenceDevice(database, resolve_device("cpu"))
    device.start()
    device.check()
    device.close()
    assert device.torch_device == "cpu"
    with database.reading() as session:
        assert serving_devices(session) == set()


@pytest.mark.parametrize("name", ["1", "cuda:1", gpu_id(1), gpu_id(1)[:14]])
def test_a_gpu_is_the_only_one_that_the_service_sees(name):
    environment = {}
    reserve_visibility(name, environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": gpu_id(1)}


@pytest.mark.parametrize("name", ["2", "cuda", "GPU-9", "GPU-", "auto"])
def test_a_device_that_is_not_there_is_refused_at_the_start(name, tmp_path):
    with pytest.raises(UserError, match=f"LCL_INFERENCE_DEVICE.*there are: 0 .*{gpu_id(1)}.*or set cpu") as caught:
        AppState(ApiSettings(home=tmp_path, inference_device=name))
    assert caught.value.code == "bad_setting"


def test_the_gpu_of_the_service_goes_to_no_run_until_it_ends(database):
    device = InferenceDevice(database, gpu_id(0))
    device.start()
    device.check()
    assert device.torch_device == "cuda"
    with database.session() as session:
        db_submit.submit(session, "pretrain", {}, gpus=1)
    both, only = (gpu_id(0), gpu_id(1)), (gpu_id(0),)
    with database.session() as session:
        assert claim_next(session, "w", 30.0, ("gpu",), devices=only) is None
        claim = claim_next(session, "w", 30.0, ("gpu",), devices=both)
    assert isinstance(claim, Claim)
    assert claim.devices == (gpu_id(1),)
    device.close()
    with database.session() as session:
        lease_for_serving(session, gpu_id(0), -1.0)  # as if its time had passed
        db_submit.submit(session, "pretrain", {}, gpus=1)
        assert claim_next(session, "w", 30.0, ("gpu",), devices=only) is None, "the api may have been cut off"
        assert expire_serving_leases(session) == [gpu_id(0)]
        assert claim_next(session, "w", 30.0, ("gpu",), devices=only) is not None


def test_an_api_that_cannot_renew_its_lease_computes_no_more(database, monkeypatch):
    device = InferenceDevice(database, gpu_id(0))
    ahead, real = {"seconds": 0.0}, inference_device.boot_time
    monkeypatch.setattr(inference_device, "boot_time", lambda: real() + ahead["seconds"])
    device.start()
    ahead["seconds"] = inference_device.LEASE_SECONDS
    with pytest.raises(UserError, match="its lease could not be renewed") as caught:
        device.check()
    assert caught.value.code == "busy"
    device._renew()
    device.check()
    device.close()


def test_inference_waits_until_a_run_has_left_the_gpu(database, tmp_path, monkeypatch, eventually):
    monkeypatch.setattr(inference_device, "_RENEW_SECONDS", 0.02)
    with database.session() as session:
        run_id = db_submit.submit(session, "pretrain", {}, gpus=1).id
    with database.session() as session:
        claim = claim_next(session, "w", 30.0, ("gpu",), devices=(gpu_id(0),))
    assert isinstance(claim, Claim)
    device = InferenceDevice(database, gpu_id(0))
    device.start()
    backend = InferenceBackend(ApiSettings(home=tmp_path), lambda *_: None, device)
    with pytest.raises(UserError, match=f"run {run_id} has it until it ends") as caught:
        backend.encoder(tmp_path)
    assert caught.value.code == "busy"
    with database.session() as session:
        release_lease(session, claim)

    def is_leased():
        try:
            device.check()
        except UserError:
            return False
        return True

    eventually(is_leased)
    device.close()
    backend.close()
