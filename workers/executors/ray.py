"""Ray executor: the processes of a job in actors of one placement group, on machines that Ray chooses.

Each node of a run is one bundle of the group, on a machine of its own (``STRICT_SPREAD``), and one actor, which starts
the job's process as the local executor does. Ray reserves all bundles or none. Group and actors are detached: they
outlive the worker, and are found again by their names, which the run's row has. An actor without a heartbeat of a
worker for ``REATTACH_SECONDS`` has its job save its state and exit, and releases its resources.

Every call names its owner, a token of the attachment. A worker that has lost the job to another one cannot stop it.

The actors are created together with the group, before it is placed. Without actors, nothing would remove the group if
its worker were killed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import ray
import structlog
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lcl_core.common.errors import UserError
from lcl_core.common.gpus import visible_devices_env
from lcl_core.common.processes import without_secrets
from lcl_core.common.rendezvous import NodeInfo, reserve_port
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.leases import REATTACH_SECONDS
from lcl_core.db.queue import EngineCapacity
from lcl_core.part_runners import RAY_ADDRESS
from lcl_core.train.launch import combined_status
from workers.executors.base import (
    EngineUnreachable,
    Handle,
    JobRequest,
    MachineLost,
    NoCapacity,
    node_log_name,
    node_stacks_name,
)
from workers.executors.local import JobProcess
from workers.settings import WorkerSettings

_ANSWER_SECONDS = 30.0  # for an actor to answer a call; it may have to be started first
_START_SECONDS = 120.0
_CONNECT_SECONDS = 60.0  # for a cluster that starts together with the worker
_KILL_SECONDS = 5.0  # in which a killed process must have ended, before Ray is asked to end its actor
_CRASH_GRACE_SECONDS = 5.0  # for other nodes to write their errors, after one has crashed
_POLL_SECONDS = 0.5
_RENEW_SECONDS = 2.0  # between two heartbeats of a worker
_THREADS = 8  # of an actor: one waits for the process, the others answer calls
# for which a call waits for the process. Those of workers that are gone have a thread until then, so this is far below
# _ANSWER_SECONDS
_EXIT_SECONDS = 10.0
log = structlog.get_logger(__name__)


class NodeProcess:
    """The job's process of one node, inside a Ray actor. Thread-safe.

    Args:
        grace_seconds: between SIGTERM and SIGKILL, when there was no heartbeat of a worker for ``orphan_seconds``.
    """

    def __init__(self, orphan_seconds: float, grace_seconds: float) -> None:
        self._orphan_seconds, self._grace_seconds = orphan_seconds, grace_seconds
        self._lock = threading.Lock()
        self._owner = ""
        self._seen = time.monotonic()
        self._process: JobProcess | None = None
        self._port: Any = None  # reserved as long as this actor lives
        self._status: int | None = None
        threading.Thread(target=self._end_orphan, daemon=True).start()

    def attach(self, owner: str) -> dict[str, Any]:
        """Make ``owner`` the only one who can stop the process. Returns: what a new worker needs to know.

        Not a heartbeat: a worker that does not reach the other actors would keep this process running.
        """
        with self._lock:
            self._owner = owner
            started = None if self._process is None else self._process.log_start
        return {"node": ray.get_runtime_context().get_node_id(), "log_start": started}

    def reserve_address(self) -> str:
        """HOST:PORT of this machine, whose port stays reserved for the ranks of the run."""
        host = ray.util.get_node_ip_address()
        self._port = reserve_port()
        return NodeInfo(0, 1, host, self._port.getsockname()[1]).address

    def start(
        self, module: str, run_dir: str, log_name: str, title: str, protocols: list[str], env: dict[str, str]
    ) -> int:
        """Start the process. Returns: byte offset of its output in the log."""
        folder = RunDir(run_dir)
        folder.log_file = folder.path / log_name
        with self._lock:
            self._process = JobProcess(module, folder, title, protocols, env)
            return self._process.log_start

    def wait_exit(self, seconds: float) -> int | None:
        """Exit status of the process, whose group is killed, as helpers may be left; None: it still runs."""
        assert self._process is not None, "start comes first"
        status = self._process.wait(seconds)
        if status is None:
            return None
        with self._lock:
            if self._status is None:
                self._status = status
                self._process.kill()
        return self._status

    def renew(self, owner: str) -> bool:
        """A heartbeat of the worker. Returns: whether it is still the owner."""
        with self._lock:
            if owner == self._owner:
                self._seen = time.monotonic()
            return owner == self._owner

    def send_signal(self, owner: str, number: int, group: bool) -> bool:
        """Signal the process, or its whole group. Returns: whether ``owner`` may do so."""
        with self._lock:
            if owner != self._owner:
                return False
            if self._process is not None and self._status is None:
                self._send(number, group)
            return True

    def dump_stacks(self, artifact: str) -> str:
        return "it has not started" if self._process is None else self._process.dump_stacks(artifact)

    def _send(self, number: int, group: bool) -> None:
        assert self._process is not None
        if group:
            self._process.signal_group(signal.Signals(number))
        elif number == signal.SIGTERM:
            self._process.terminate()

    def _end_orphan(self) -> None:
        """Without a worker the process saves its state and exits, and the placement group is removed with it."""
        terminated: float | None = None
        while True:
            time.sleep(min(_POLL_SECONDS, self._orphan_seconds / 4))
            with self._lock:
                silent = time.monotonic() - self._seen
                running = self._process is not None and self._status is None
                if silent < self._orphan_seconds:
                    terminated = None
                    continue
                if terminated is None:
                    terminated = time.monotonic()
                    if running:
                        self._send(signal.SIGTERM, group=False)
                ended = not running or self._process is None or self._process.wait(0) is not None
                if not ended and time.monotonic() < terminated + self._grace_seconds:
                    continue
                if running:
                    self._send(signal.SIGKILL, group=True)
            try:
                group = ray.util.get_current_placement_group()
                if group is not None:
                    ray.util.remove_placement_group(group)
            except Exception as error:  # the cluster's head is away: the next round tries again
                log.warning("orphan_not_removed", problem=_first_line(error))
                continue
            os._exit(0)  # releases the actor's resources, also where the head has not removed it yet


class _ActorNode(NamedTuple):
    """Where an actor is, and where in its log the output of its process begins."""

    id: str  # of Ray's node
    log_start: int


class RayJob:
    """The processes of one job in the actors of a placement group."""

    is_paused = False

    def __init__(
        self,
        name: str,
        owner: str,
        group: PlacementGroup,
        actors: Sequence[Any],
        run_dir: RunDir,
        nodes: Sequence[_ActorNode],
        *,
        detachable: bool,
    ) -> None:
        self._detachable = detachable
        self._name, self._owner, self._group, self._actors = name, owner, group, actors
        self._run_dir, self._nodes = run_dir, nodes
        self._renew_at = 0.0
        self._pending = {self._await_exit(number): number for number in range(len(actors))}
        self._statuses: dict[int, int] = {}
        self._decisive = 0  # node whose exit status counts
        self._kill_others_at = float("inf")
        self._detached = self._removed = False
        self._lock = threading.Lock()
        self._waiting = threading.Lock()  # held by the one thread that waits

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"placement_group": self._name, "nodes": len(self._actors)}

    @property
    def log_file(self) -> Path:
        return self._run_dir.path / node_log_name(self._decisive)

    @property
    def log_start(self) -> int:
        return self._nodes[self._decisive].log_start

    def wait(self, seconds: float) -> int | None:
        """Raises: MachineLost."""
        with self._waiting:
            return self._wait(seconds)

    def _wait(self, seconds: float) -> int | None:
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEW_SECONDS
            for actor in self._actors:
                actor.renew.remote(self._owner)
        ended, _ = ray.wait([*self._pending], num_returns=1, timeout=seconds)
        for reference in ended:
            number, status = self._pending.pop(reference), None
            try:
                status = ray.get(reference)
            except ActorDiedError as error:
                self._record_death(number, error)
                continue
            except RayActorError:  # it cannot be reached at the moment
                pass
            if status is None:
                self._pending[self._await_exit(number)] = number
            else:
                self._record_status(number, status)
        if self._pending and time.monotonic() > self._kill_others_at:
            self._kill_others_at = float("inf")
            self.signal_group(signal.SIGKILL)
        if self._pending:
            return None
        return combined_status([*self._statuses.values()])

    def _await_exit(self, number: int) -> Any:
        """The answer of an actor once its process has ended, or has not for _EXIT_SECONDS."""
        return self._actors[number].wait_exit.remote(_EXIT_SECONDS)

    def terminate(self) -> None:
        for actor in self._actors:
            actor.send_signal.remote(self._owner, int(signal.SIGTERM), False)

    def signal_group(self, number: signal.Signals) -> None:
        for actor in self._actors:
            actor.send_signal.remote(self._owner, int(number), True)

    def kill(self) -> int:
        """Kill all processes and remove the group, unless another worker is the owner by now."""
        with self._lock:
            if not self._removed and self._owns():
                self.signal_group(signal.SIGKILL)
                with contextlib.suppress(RayError):
                    exits = [self._await_exit(number) for number in range(len(self._actors))]
                    ray.wait(exits, num_returns=len(exits), timeout=_KILL_SECONDS)
                self._remove()
        known = [*self._statuses.values()]
        return combined_status(known) if len(known) == len(self._actors) else -signal.SIGKILL

    def dump_stacks(self) -> str:
        calls = [actor.dump_stacks.remote(node_stacks_name(number)) for number, actor in enumerate(self._actors)]
        try:
            answers = ray.get(calls, timeout=_ANSWER_SECONDS)
        except RayError as error:
            return f"Ray did not get the stacks of its processes: {_first_line(error)}"
        return "; ".join(dict.fromkeys(answers))

    def detach(self) -> bool:
        self._detached = self._detachable
        return self._detached

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._detached:
            self.kill()

    def _record_status(self, number: int, status: int) -> None:
        self._statuses[number] = status
        failures = [each for each in self._statuses.values() if each != ExitCode.OK]
        if failures and combined_status(failures) == status:
            self._decisive = number
        if status not in (ExitCode.OK, ExitCode.CANCELLED):
            grace = _CRASH_GRACE_SECONDS if status == ExitCode.CRASH else 0.0
            self._kill_others_at = min(self._kill_others_at, time.monotonic() + grace)

    def _record_death(self, number: int, error: ActorDiedError) -> None:
        """An actor ended by itself: killed by an operator or Ray's memory monitor, or with its machine.

        Raises: MachineLost.
        """
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if error.preempted or self._nodes[number].id not in alive:
            raise MachineLost(f"node {number} of the run was lost: {_cause(error)}") from error
        log.warning("actor_died", node=number, error=str(error))
        self._record_status(number, -signal.SIGKILL)

    def _owns(self) -> bool:
        """Whether no other worker has attached to any of the actors."""
        for actor in self._actors:
            with contextlib.suppress(RayError):
                if ray.get(actor.renew.remote(self._owner), timeout=_KILL_SECONDS) is False:
                    return False
        return True

    def _remove(self) -> None:
        self._removed = True
        with contextlib.suppress(RayError):
            ray.util.remove_placement_group(self._group)


class RayExecutor:
    """Connects this worker to a Ray cluster as one of its drivers."""

    places_nodes = True

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._orphan_seconds = settings.lease_seconds + REATTACH_SECONDS  # a lost lease has to expire first

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_unreachable``."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
        deadline = time.monotonic() + _CONNECT_SECONDS
        while (problem := self._connect()) is not None:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no Ray cluster answers at {self._settings.ray_address} ({problem}); run `ray start`, on this "
                    "machine too, or set LCL_RAY_ADDRESS",
                    code="executor_unreachable",
                )
            log.warning("ray_unreachable", address=self._settings.ray_address, error=problem)
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            ray.shutdown()

    def _connect(self) -> str | None:
        """Returns: why the cluster cannot be used; None: this process is one of its drivers now."""
        settings = self._settings
        try:
            ray.init(
                address=settings.ray_address,
                namespace=settings.ray_namespace,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            return _first_line(error)
        return None

    def capacity(self) -> EngineCapacity | None:
        try:
            free, nodes = ray.available_resources(), [node for node in ray.nodes() if node["Alive"]]
        except RayError as error:
            log.warning("ray_unreachable", error=_first_line(error))
            return None
        cpus = self._settings.least_cpus
        able = [node for node in nodes if node["Resources"].get("CPU", 0) >= cpus]
        has_gpus = any(node["Resources"].get("GPU") for node in nodes)
        return EngineCapacity("ray", len(able), free.get("CPU", 0.0), free.get("GPU", 0.0), has_gpus, float(cpus))

    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> RayJob:
        """Raises: NoCapacity, MachineLost."""
        name = f"{self._settings.ray_namespace}-{request.name}-{secrets.token_hex(4)}"
        remember({"executor": "ray", "name": name, "nodes": request.nodes})
        gpus = request.gpus if ray.cluster_resources().get("GPU") else 0
        bundle = self._bundle(request, gpus)
        strategy = "STRICT_SPREAD" if request.nodes > 1 else "PACK"
        group = placement_group([bundle] * request.nodes, strategy=strategy, name=name, lifetime="detached")
        try:
            actors = self._create_actors(group, name, bundle, request.nodes)
            self._await_place(group, request)
            return self._start_in(group, actors, name, gpus, request)
        except RayError as error:
            _remove_group(group)
            raise MachineLost(f"Ray could not start the processes: {_first_line(error)}") from error
        except BaseException:
            _remove_group(group)
            raise

    def attach(self, handle: Handle, run_dir: RunDir) -> RayJob:
        """Raises: MachineLost, EngineUnreachable."""
        if handle.get("executor") != "ray":
            raise MachineLost("its processes are those of another executor")
        name, owner = handle["name"], secrets.token_hex(8)
        try:
            group = ray.util.get_placement_group(name)
            state = ray.util.placement_group_table(group).get("state")
        except ValueError as error:
            raise MachineLost("Ray does not know its placement group any more") from error
        except RayError as error:
            raise EngineUnreachable(f"Ray does not answer: {_first_line(error)}") from error
        if state == "PENDING":
            _remove_group(group)
            raise MachineLost("its placement group waited for a place while no worker had it")
        try:
            actors = [ray.get_actor(_actor_name(name, number)) for number in range(handle["nodes"])]
            facts: list[dict[str, Any]] = ray.get(
                [actor.attach.remote(owner) for actor in actors], timeout=_ANSWER_SECONDS
            )
            nodes = [_ActorNode(fact["node"], fact["log_start"]) for fact in facts]
            if any(node.log_start is None for node in nodes):
                raise ValueError("it was not started on all of its nodes")
            return RayJob(name, owner, group, actors, run_dir, nodes, detachable=self._settings.ray_detach)
        except (ValueError, TypeError, ActorDiedError) as error:  # TypeError: actors of another version of this module
            _remove_group(group)
            raise MachineLost(f"its processes are not all there: {_first_line(error)}") from error
        except RayError as error:
            raise EngineUnreachable(f"an actor of its processes does not answer: {_first_line(error)}") from error

    def _bundle(self, request: JobRequest, gpus: int) -> dict[str, float]:
        """What Ray reserves for each node."""
        needed = self._settings.resources_of(request.kind, gpus)
        bundle = {"CPU": float(needed.cpus)}
        if gpus:
            bundle["GPU"] = float(gpus)
        if needed.memory is not None:
            bundle["memory"] = float(needed.memory << 30)
        return bundle

    def _await_place(self, group: PlacementGroup, request: JobRequest) -> None:
        """Raises: NoCapacity; what ``request.check`` raises."""
        deadline = time.monotonic() + self._settings.engine_wait_seconds
        while not group.wait(_POLL_SECONDS):
            request.check()
            if time.monotonic() > deadline:
                nodes = "1 node" if request.nodes == 1 else f"{request.nodes} nodes at once"
                raise NoCapacity(
                    f"Ray has had no free capacity for {nodes} for {self._settings.engine_wait_seconds:g} s"
                )

    def _create_actors(self, group: PlacementGroup, name: str, bundle: Mapping[str, float], nodes: int) -> list[Any]:
        """One for each bundle. They start when the group is placed."""
        settings, remote = self._settings, ray.remote(NodeProcess)
        return [
            remote.options(
                name=_actor_name(name, number),
                lifetime="detached",
                max_concurrency=_THREADS,
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0.0),
                memory=bundle.get("memory"),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, number),
            ).remote(self._orphan_seconds, settings.cancel_grace_seconds)
            for number in range(nodes)
        ]

    def _start_in(
        self, group: PlacementGroup, actors: Sequence[Any], name: str, gpus: int, request: JobRequest
    ) -> RayJob:
        owner, settings = secrets.token_hex(8), self._settings
        facts = self._await_actors([actor.attach.remote(owner) for actor in actors], request)
        envs = self._environments(actors, gpus, request)
        calls = [
            actor.start.remote(
                request.module,
                str(request.run_dir.path),
                node_log_name(number),
                request.title if number == 0 else f"{request.title}, node {number} of {request.nodes}",
                sorted(request.protocols),
                envs[number],
            )
            for number, actor in enumerate(actors)
        ]
        starts = ray.get(calls, timeout=_ANSWER_SECONDS)
        nodes = [_ActorNode(fact["node"], start) for fact, start in zip(facts, starts, strict=True)]
        return RayJob(name, owner, group, actors, request.run_dir, nodes, detachable=settings.ray_detach)

    def _await_actors(self, calls: Sequence[Any], request: JobRequest) -> list[dict[str, Any]]:
        """An actor's interpreter takes seconds to start. Raises: RayError, what ``request.check`` raises."""
        deadline, pending = time.monotonic() + _START_SECONDS, list(calls)
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=_POLL_SECONDS)
            ray.get(done)
            request.check()
            if time.monotonic() > deadline:
                raise GetTimeoutError(f"its actors did not start within {_START_SECONDS:g} s")
        return list(ray.get(list(calls)))

    def _environments(self, actors: Sequence[Any], gpus: int, request: JobRequest) -> list[dict[str, str]]:
        """What is added to the environment of each node: settings without secrets, and where its ranks meet."""
        shared = {name: value for name, value in without_secrets(os.environ).items() if name.startswith("LCL_")}
        shared |= request.env
        if os.environ.get("RAY_AUTH_MODE") != "token":  # which processes of runs do not get
            shared[RAY_ADDRESS] = ray.get_runtime_context().gcs_address
        if not gpus:
            shared |= visible_devices_env(())
        if request.nodes == 1:
            return [shared]
        address = ray.get(actors[0].reserve_address.remote(), timeout=_ANSWER_SECONDS)
        seconds = self._settings.rendezvous_seconds
        return [
            shared | NodeInfo.at(address, number, request.nodes, seconds).to_env() for number in range(request.nodes)
        ]


def _actor_name(name: str, number: int) -> str:
    return f"{name}-{number}"


def _remove_group(group: PlacementGroup) -> None:
    with contextlib.suppress(RayError):
        ray.util.remove_placement_group(group)


def _cause(error: Exception) -> str:
    """The last line of what Ray says, which is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
