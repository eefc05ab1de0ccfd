"""Settings of a worker process, beyond the shared ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FilePath, field_validator, model_validator
from pydantic_settings import NoDecode

from lcl_core.common.files import parse_strict_json
from lcl_core.common.settings import Settings

# shares of a lease without a renewal after which the job is asked to write a checkpoint and leave, and is killed
TERMINATE_SHARE, KILL_SHARE = 0.5, 0.8
_DNS_NAME = r"^([a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?)?$"


PodField = Literal["nodeSelector", "tolerations", "priorityClassName", "imagePullSecrets", "labels", "annotations"]


class NodeResources(BaseModel):
    """What a node of a run gets of Ray, Slurm or Kubernetes; memory in GiB, ``shm`` of it for /dev/shm at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: int = Field(1, ge=1, le=4096)
    cpus_per_gpu: int = Field(4, ge=1, le=512)
    memory: int | None = Field(None, ge=1, le=65_536)
    memory_per_gpu: int | None = Field(None, ge=1, le=4096)
    shm: int = Field(2, ge=1, le=4096)
    shm_per_gpu: int = Field(2, ge=1, le=4096)

    def of_node(self, gpus: int) -> NodeResources:
        """Those of a node with so many GPUs."""
        if not gpus:
            return self
        memory = None if self.memory_per_gpu is None else gpus * self.memory_per_gpu
        return self.model_copy(
            update={"cpus": gpus * self.cpus_per_gpu, "memory": memory, "shm": gpus * self.shm_per_gpu}
        )


class WorkerSettings(Settings):
    """Read from ``LCL_*`` environment variables."""

    worker_slots: int = Field(1, ge=1, le=64, description="runs at a time")
    worker_offers: Annotated[list[Literal["cpu", "gpu"]], NoDecode] = Field(
        [], description="what runs may ask of it, parted by commas; empty: cpu, and gpu where there is one"
    )
    checkpoints: Literal["local", "store"] = Field(
        "local", description="store: copied to LCL_ARTIFACTS too, where a worker with another home resumes from them"
    )
    executor: Literal["local", "ray", "slurm", "kubernetes"] = Field(
        "local", description="where the processes of runs run; docs/operations.md has what each needs"
    )
    node_resources: Annotated[dict[str, NodeResources], NoDecode] = Field(
        {}, description="of each node of a run on Ray, Slurm or Kubernetes by kind, as a JSON object; *: of other kinds"
    )
    engine_wait_seconds: float = Field(
        60.0, gt=0, le=86_400, description="for a place for the whole run, before others get their turn"
    )
    ray_address: str = Field("auto", description="HOST:PORT of the Ray cluster; auto: that of this machine")
    ray_namespace: str = Field(
        "lcl", pattern="^[a-z0-9][a-z0-9-]{0,31}$", description="one a service, where several share a Ray cluster"
    )
    ray_detach: bool = Field(True, description="runs go on while their worker is stopped and started again")
    slurm_queue: bool = Field(
        False, description="runs wait in Slurm's queue, however long; else what fits now is claimed"
    )
    kubernetes_image: str = Field("", description="of the pods of runs; needed where runs are pods")
    kubernetes_namespace: str = Field(
        "", pattern=_DNS_NAME, description="of these pods; empty: that of the worker's pod"
    )
    kubernetes_queue: str = Field("", pattern=_DNS_NAME, description="LocalQueue of Kueue; empty: without Kueue")
    kubernetes_claim: str = Field("home", pattern=_DNS_NAME, description="PersistentVolumeClaim of LCL_HOME")
    kubernetes_data_claims: Annotated[dict[str, str], NoDecode] = Field(
        {}, description="further claims, read-only, as a JSON object: {claim: path}"
    )
    kubernetes_secret: str = Field("", pattern=_DNS_NAME, description="Secret with credentials of object storage")
    kubernetes_service_account: str = Field("lcl", pattern=_DNS_NAME, description="of these pods; they get no token")
    kubernetes_gpu_resource: str = Field(
        "nvidia.com/gpu", description="by which pods ask for GPUs; empty: the cluster has none"
    )
    kubernetes_pod: Annotated[dict[PodField, Any], NoDecode] = Field(
        {}, description="what their pods have besides, as a JSON object"
    )
    kubernetes_url: str = Field(
        "", pattern=r"^(https://.+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/?)?$", description="of the API server"
    )
    kubernetes_token_file: Path | None = Field(
        None, description="with the token for it; none: that of the worker's pod"
    )
    kubernetes_ca_file: FilePath | None = Field(
        None, description="with the certificates of its authority; none: that of the worker's pod, else the system's"
    )
    rendezvous_seconds: float = Field(
        300.0, gt=0, le=86_400, description="for the processes of a run of several nodes to connect to node 0"
    )
    hung_seconds: float = Field(
        1800.0, gt=0, le=86_400, description="without progress that a run's process is allowed at least"
    )
    watch_seconds: float = Field(0.5, gt=0, le=86_400, description="between two checks of a running process")
    reap_seconds: float = Field(
        3.0, gt=0, le=15, description="between two signs of life of a worker, and two looks for queued runs"
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.heartbeat_seconds + self.watch_seconds >= KILL_SHARE * self.lease_seconds:
            raise ValueError(
                f"LCL_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}) and LCL_WATCH_SECONDS ({self.watch_seconds:g}) "
                f"together must be less than {KILL_SHARE:g} of LCL_LEASE_SECONDS ({self.lease_seconds:g}): a run is "
                "killed after that share of it without a sign of life"
            )
        if self.checkpoints == "store" and not self.artifacts:
            raise ValueError("LCL_CHECKPOINTS is store, so LCL_ARTIFACTS must name the store")
        if self.executor == "kubernetes" and not self.kubernetes_image:
            raise ValueError(
                "LCL_KUBERNETES_IMAGE must name the image of the runs' pods where LCL_EXECUTOR is kubernetes"
            )
        return self

    @field_validator("node_resources", "kubernetes_data_claims", "kubernetes_pod", mode="before")
    @classmethod
    def _read_json(cls, value: object) -> object:
        return parse_strict_json(value or "{}") if isinstance(value, str) else value

    def resources_of(self, kind: str, gpus: int) -> NodeResources:
        """What each node of a run of that kind gets, with so many GPUs a node."""
        rows = self.node_resources
        return rows.get(kind, rows.get("*", NodeResources())).of_node(gpus)

    @property
    def least_cpus(self) -> int:
        """Of a node of any run: a machine with fewer runs none."""
        return min(row.cpus for row in (NodeResources(), *self.node_resources.values()))

    @field_validator("worker_offers", mode="before")
    @classmethod
    def _split_offers(cls, value: object) -> object:
        return [offer.strip() for offer in value.split(",") if offer.strip()] if isinstance(value, str) else value
