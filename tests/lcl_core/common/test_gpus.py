"""Which GPUs and MIG instances a process may use, and what they do."""

import pytest

from lcl_core.common.gpus import gpu_usage, is_whole, list_gpus, visible_gpus
from tests.fake_nvidia_smi import MIG_ID, gpu_id, install, listing


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The only folder on PATH; it is empty."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def visible(wanted):
    return [gpu.id for gpu in visible_gpus({} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted})]


def test_without_the_program_there_is_none(programs):
    assert list_gpus() == []
    assert gpu_usage(list_gpus()) == []


def test_gpus_have_their_uuid_and_name(programs):
    install(programs, listing(2))
    assert [(gpu.id, gpu.name) for gpu in list_gpus()] == [
        (gpu_id(0), "NVIDIA A100-SXM4-40GB"),
        (gpu_id(1), "NVIDIA A100-SXM4-40GB"),
    ]


def test_a_driver_that_fails_is_no_gpu(programs):
    install(programs, listing(2), status=9)
    assert list_gpus() == []


def test_a_gpu_in_mig_mode_is_its_instances(programs):
    install(programs, listing(2, instances=[2]))
    assert [gpu.id for gpu in list_gpus()] == [MIG_ID.format(0), MIG_ID.format(1), gpu_id(1)]
    assert list_gpus()[1].name == "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    assert [is_whole(gpu.id) for gpu in list_gpus()] == [False, False, True]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("1,9,2", [1]),  # as in CUDA, what follows an unknown device is not visible
        ("1,-1,2", [1]),
        (gpu_id(3), [3]),
        (f"{gpu_id(2)[:12]},1", [2, 1]),
        ("nonsense", []),
    ],
)
def test_the_own_environment_chooses_among_them(programs, wanted, expected):
    install(programs, listing(4))
    assert visible(wanted) == [gpu_id(number) for number in expected]


def test_an_instance_is_chosen_by_its_id_and_all_of_a_gpu_by_the_gpu(programs):
    install(programs, listing(2, instances=[2]))
    assert visible(MIG_ID.format(1)) == [MIG_ID.format(1)]
    assert visible("0") == visible(gpu_id(0)) == [MIG_ID.format(0), MIG_ID.format(1)]


def test_usage_is_in_bytes_and_shares_and_only_of_the_own_devices(programs):
    usage = f"{gpu_id(0)}, NVIDIA L4, 99, 7, 8\n{gpu_id(1)}, NVIDIA L4, 37, 1024, 23034"
    install(programs, listing(3, instances=[1]), usage)
    part, busy = gpu_usage(list_gpus()[:2])
    assert busy == {
        "id": gpu_id(1),
        "name": "NVIDIA A100-SXM4-40GB",
        "utilization": 0.37,
        "memory_used": 2**30,
        "memory_total": 23034 * 2**20,
    }
    assert (part["id"], part["utilization"], part["memory_used"]) == (MIG_ID.format(0), None, None)
