"""The GPU on which the service computes, leased so that no run gets it; the processor unless a setting names a GPU."""

from __future__ import annotations

from collections.abc import MutableMapping

from lcl_core.common.errors import Busy, UserError
from lcl_core.common.gpus import find_gpu, visible_devices_env
from lcl_core.common.processes import boot_time
from lcl_core.db.session import Database
from lcl_core.db.workers import PeriodicTask, lease_for_serving

LEASE_SECONDS = 300.0  # an api that is cut off for longer computes no more, and its GPU may go to a run
_RENEW_SECONDS = 10.0


def reserve_visibility(setting: str, environment: MutableMapping[str, str]) -> None:
    """Show CUDA in this process and its children only the GPU of ``LCL_INFERENCE_DEVICE``, or none for ``cpu``.

    Raises: UserError ``bad_setting`` for a device that is not there.
    """
    device = resolve_device(setting)
    environment.update(visible_devices_env([device] if device else []))


def resolve_device(setting: str) -> str | None:
    """Id of the GPU; None: the processor. Raises: UserError ``bad_setting``."""
    if setting == "cpu":
        return None
    try:
        return find_gpu(setting).id
    except UserError as error:
        raise UserError(f"LCL_INFERENCE_DEVICE: {error.message}; or set cpu", code="bad_setting") from error


class InferenceDevice:
    """Lease of the service's GPU, renewed in a thread. Copies of the service on one machine may share it.

    Args:
        device: id of the GPU; None: the processor, which needs no lease.
    """

    def __init__(self, database: Database, device: str | None) -> None:
        self._database = database
        self._device = device
        self._run: str | None = None  # that had the GPU before, and has not ended
        self._leased_until = float("inf") if device is None else float("-inf")  # boot clock
        self._renewal: PeriodicTask | None = None

    @property
    def torch_device(self) -> str:
        """As EncoderEngine's ``device``: the only GPU that this process sees, or the processor."""
        return "cpu" if self._device is None else "cuda"

    def start(self) -> None:
        """Take the lease and keep it until ``close``. Raises: UNREACHABLE."""
        if self._device is None or self._renewal is not None:
            return
        self._renew()
        self._renewal = PeriodicTask("inference-device", self._renew, _RENEW_SECONDS, delayed=True)
        self._renewal.start()

    def check(self) -> None:
        """Raises: Busy while a run still has the GPU, or the lease could not be taken."""
        if boot_time() < self._leased_until:
            return
        holder = f"run {self._run} has it until it ends" if self._run else "its lease could not be renewed"
        message = f"the service computes on {self._device}, and {holder}; send the request again later"
        raise Busy(f"{message}, or set LCL_INFERENCE_DEVICE to another device")

    def close(self) -> None:
        """Renew no more: other copies of the service may still use the GPU, so the lease expires by itself."""
        if self._renewal is not None:
            self._renewal.stop()

    def _renew(self) -> None:
        assert self._device is not None, "only a GPU is leased"
        sent = boot_time()
        with self._database.session() as session:
            self._run = lease_for_serving(session, self._device, LEASE_SECONDS)
        self._leased_until = sent + LEASE_SECONDS if self._run is None else float("-inf")
