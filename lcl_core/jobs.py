"""Registry of job kinds: spec, module, output, resource, form. A new kind is one spec class and one entry here.

Imports no spec, so that it loads at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

RESOURCES = ("cpu", "gpu")  # what a worker may offer, and a submission ask for
ANY_DEVICE = "accelerator"  # a GPU where there is one, else the processor: every worker can serve it
RESOURCE_CLASSES = ("cpu", ANY_DEVICE, "gpu")  # what a run needs


@dataclass(frozen=True)
class JobOutput:
    """What a successful job registers.

    Attributes:
        noun: the entry of ``result.json`` that describes it, with its ``path`` below ``artifacts/``.
        id_prefix: of its row's id.
        folder: of the home folder, where it is kept.
    """

    noun: str
    id_prefix: str
    folder: str


@dataclass(frozen=True)
class JobKind:
    """One kind of job.

    Attributes:
        label: title in the page.
        spec: ``MODULE:CLASS`` of its spec.
        module: run as ``python -m MODULE RUN_DIR``.
        imports: the module with the libraries that take it seconds to import, for a fork server; empty: none does.
        output: None: a report and nothing to register.
        resource: what a run needs unless its submission says so.
        batch_fields: spec fields that lower its memory, in words.
        main_fields: the few fields that most runs differ in, by dotted path, with their titles in a form. ``*`` in a
            path is the first item of a list and all items that have the same value as the first.
    """

    label: str
    spec: str
    module: str
    imports: str = ""
    output: JobOutput | None = None
    resource: str = ANY_DEVICE
    batch_fields: str = ""
    main_fields: Mapping[str, str] = field(default_factory=dict)

    def spec_class(self) -> Any:
        """The spec's pydantic model."""
        module, _, name = self.spec.partition(":")
        return getattr(import_module(module), name)


_DATASET = JobOutput("dataset", "data", "datasets")
JOBS: dict[str, JobKind] = {
    "pretrain": JobKind(
        label="Pre-train",
        spec="lcl_core.specs.pretrain:PretrainSpec",
        module="lcl_core.train",
        imports="lcl_core.train.trainer",
        output=JobOutput("encoder", "enc", "encoders"),
        batch_fields="batch.tokens and batch.images",
        main_fields={
            "data.sources.*.dataset": "Dataset",
            "steps": "Steps",
            "batch.images": "Images in a batch",
            "batch.tokens": "Tokens in a batch",
            "optimizer.lr": "Learning rate",
            "objective.name": "Method",
            "objective.contrastive_weight": "Contrastive weight λ",
            "model.image_size": "Image size",
            "seed": "Seed",
        },
    ),
    "evaluate": JobKind(
        label="Evaluate",
        spec="lcl_core.specs.evaluate:EvaluateSpec",
        module="lcl_core.evaluation",
        imports="lcl_core.evaluation.evaluate",
        main_fields={
            "encoder": "Encoder",
            "dataset": "Dataset",
            "splits": "Splits",
            "source": "Only from source",
            "tasks": "Tasks",
            "transfer": "Transfer",
            "untrained_baseline": "Compare with the untrained architecture",
        },
    ),
    "index": JobKind(
        label="Index",
        spec="lcl_core.specs.corpus_jobs:IndexSpec",
        module="lcl_core.collections.index_job",
        imports="lcl_core.encoders.engine",
        output=JobOutput("collection", "col", "collections"),
        batch_fields="batch_size",
        main_fields={
            "encoder": "Encoder",
            "dataset": "Dataset",
            "collection": "Collection",
            "splits": "Splits",
            "processes": "Processes",
        },
    ),
    "validate": JobKind(
        label="Validate",
        spec="lcl_core.specs.corpus_jobs:ValidateSpec",
        module="lcl_core.data.validation",
        resource="cpu",
        main_fields={
            "dataset": "Dataset",
            "workers": "Processes",
            "similarity_threshold": "Least similarity",
            "tokens": "Measure texts in tokens",
        },
    ),
    "convert": JobKind(
        label="Convert",
        spec="lcl_core.specs.corpus_jobs:ConvertSpec",
        module="lcl_core.data.conversion",
        output=_DATASET,
        resource="cpu",
        main_fields={
            "dataset": "Dataset",
            "path": "Or a path",
            "format": "Format",
            "name": "Dataset to make",
            "only_tags": "Only with tags",
            "without_tags": "Without tags",
            "shard_megabytes": "Megabytes a shard",
            "processes": "Processes",
        },
    ),
    "match": JobKind(
        label="Match",
        spec="lcl_core.specs.corpus_jobs:MatchSpec",
        module="lcl_core.collections.match_job",
        imports="lcl_core.encoders.engine",
        output=_DATASET,
        main_fields={"dataset": "Dataset", "encoder": "Encoder", "name": "Dataset to make"},
    ),
}
JOB_KINDS = tuple(JOBS)
JOB_MODULES = {name: kind.module for name, kind in JOBS.items()}

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[JOB_KINDS]
