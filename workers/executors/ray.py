"""Ray executor: the node agents of a run are actors of one placement group, on machines that Ray chooses.

Each node of a run is one bundle of the group, on a machine of its own (``STRICT_SPREAD``). Ray reserves all bundles or
none. Group and actors are detached: they outlive the worker, and are found again by their names, which the run's row
has. The actors are created together with the group, before it is placed: they remove it if its worker is gone by then.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import ray
import structlog
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lcl_core.common.errors import UserError
from lcl_core.common.files import file_age
from lcl_core.common.processes import allowed_environment
from lcl_core.common.run_dir import ExitCode
from lcl_core.db.queue import EngineCapacity
from lcl_core.part_runners import RAY_ADDRESS
from workers.executors.base import EngineUnreachable, JobRequest
from workers.executors.folder_job import POLL_SECONDS, FolderExecutor, JobPhase, JobState
from workers.executors.job_folder import JobFolder
from workers.executors.node_agent import run_agent
from workers.settings import WorkerSettings

_CONNECT_SECONDS = 60.0  # for a cluster that starts together with the worker
# after the end of an actor, in which Ray finds out that it was lost with its node
_LOSS_SECONDS = 30.0
log = structlog.get_logger(__name__)


class NodeActor:
    """Runs the agent of one node in a thread, since a constructor that does not return leaves an actor unplaced."""

    def __init__(self, folder: str, number: int, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._folder, self._number = JobFolder(Path(folder)), number
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        """Without a worker the group is removed after the agent's end, and after a failure for all nodes at once."""
        status: int = ExitCode.CRASH
        with contextlib.suppress(Exception):  # the folder is gone, or node 0 has not reported an address
            status = run_agent(self._folder, self._number, ray.util.get_node_ip_address(), threading.Event())
        with contextlib.suppress(OSError):
            orphan_seconds = self._folder.read_start().orphan_seconds
            while status == ExitCode.OK and file_age(self._folder.control_file) < orphan_seconds:
                time.sleep(POLL_SECONDS)
        while True:
            with contextlib.suppress(Exception):  # the cluster's head is away
                ray.util.remove_placement_group(ray.util.get_current_placement_group())
                os._exit(0)
            time.sleep(POLL_SECONDS)


class RayExecutor(FolderExecutor):
    """Connects this worker to a Ray cluster as one of its drivers."""

    name, title = "ray", "Ray"
    query_seconds = 1.0

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.detaches = settings.ray_detach
        self._nodes: dict[str, dict[int, str]] = {}  # {job: Ray's node of each bundle}
        self._ended: dict[str, float] = {}  # {job: when one of its actors was seen to have ended}

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_unreachable``."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
        try:
            self.answer(self._connect, patience=_CONNECT_SECONDS)
        except EngineUnreachable as error:
            raise UserError(
                f"no Ray cluster answers at {self.settings.ray_address} ({error}); run `ray start`, on this machine "
                "too, or set LCL_RAY_ADDRESS",
                code="executor_unreachable",
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        """Raises: EngineUnreachable."""
        address, namespace = self.settings.ray_address, self.settings.ray_namespace
        try:
            ray.init(address=address, namespace=namespace, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise EngineUnreachable(_first_line(error)) from error

    def capacity(self) -> EngineCapacity | None:
        try:
            free, nodes = ray.available_resources(), [node for node in ray.nodes() if node["Alive"]]
        except RayError as error:
            log.warning("engine_unreachable", problem=_first_line(error))
            return None
        cpus = self.settings.least_cpus
        able = [node for node in nodes if node["Resources"].get("CPU", 0) >= cpus]
        has_gpus = any(node["Resources"].get("GPU") for node in nodes)
        return EngineCapacity("ray", len(able), free.get("CPU", 0.0), free.get("GPU", 0.0), has_gpus, float(cpus))

    def gpus_of(self, request: JobRequest) -> int:
        return request.gpus if ray.cluster_resources().get("GPU") else 0

    def submit(self, request: JobRequest, name: str, gpus: int, folder: JobFolder) -> str:
        needed = self.settings.resources_of(request.kind, gpus)
        bundle = {"CPU": float(needed.cpus)}
        if gpus:
            bundle["GPU"] = float(gpus)
        if needed.memory is not None:
            bundle["memory"] = float(needed.memory << 30)
        strategy = "STRICT_SPREAD" if request.nodes > 1 else "PACK"
        try:
            group = placement_group([bundle] * request.nodes, strategy=strategy, name=name, lifetime="detached")
            for number in range(request.nodes):
                ray.remote(NodeActor).options(
                    name=_actor_name(name, number),
                    lifetime="detached",
                    num_cpus=bundle["CPU"],
                    num_gpus=bundle.get("GPU", 0.0),
                    memory=bundle.get("memory"),
                    scheduling_strategy=PlacementGroupSchedulingStrategy(group, number),
                ).remote(str(folder.path), number, node_environment(request))
        except RayError as error:
            raise EngineUnreachable(_first_line(error)) from error
        return name

    def find(self, name: str) -> str | None:
        return None if _find_group(name) is None else name

    def read_state(self, job_id: str, name: str) -> JobState | None:
        if (found := _find_group(name)) is None:
            return None
        group, state, nodes = found
        if state == "PENDING":
            return JobState(JobPhase.PENDING, "its placement group waits")
        ended = not all(_is_alive(_actor_name(name, number)) for number in range(group.bundle_count))
        # Ray gives the group another node in place of one that is lost
        lost = state == "RESCHEDULING" or self._nodes.setdefault(name, nodes) != nodes
        if ended and not lost:
            ended = time.monotonic() > self._ended.setdefault(name, time.monotonic()) + _LOSS_SECONDS
        loss = "a node of the run was lost" if lost else ""
        return JobState(JobPhase.ENDED if ended or loss else JobPhase.RUNNING, loss=loss)

    def remove(self, job_id: str, name: str) -> None:
        self._ended.pop(name, None)
        self._nodes.pop(name, None)
        try:
            if (group := _find_group(name)) is not None:
                ray.util.remove_placement_group(group[0])
        except (EngineUnreachable, RayError) as error:  # the command in the folder ends the processes
            log.warning("engine_unreachable", problem=str(error))


def node_environment(request: JobRequest) -> dict[str, str]:
    """What is added to the environment of each node: settings without secrets."""
    shared = {name: value for name, value in allowed_environment(os.environ).items() if name.startswith("LCL_")}
    if os.environ.get("RAY_AUTH_MODE") != "token":  # which processes of runs do not get
        shared[RAY_ADDRESS] = ray.get_runtime_context().gcs_address
    return shared | dict(request.env)


def _find_group(name: str) -> tuple[PlacementGroup, str, dict[int, str]] | None:
    """A placement group, its state and its nodes; None: Ray does not know it. Raises: EngineUnreachable."""
    try:
        group = ray.util.get_placement_group(name)
        facts = ray.util.placement_group_table(group)
    except ValueError:
        return None
    except RayError as error:
        raise EngineUnreachable(_first_line(error)) from error
    state = facts.get("state", "REMOVED")
    return None if state == "REMOVED" else (group, state, facts["bundles_to_node_id"])


def _is_alive(actor: str) -> bool:
    with contextlib.suppress(ValueError):
        ray.get_actor(actor)
        return True
    return False


def _actor_name(name: str, number: int) -> str:
    return f"{name}-{number}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
