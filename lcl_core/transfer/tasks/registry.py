"""Every task by its name in ``EvaluateSpec.tasks``."""

from __future__ import annotations

from lcl_core.transfer.tasks.base import Task
from lcl_core.transfer.tasks.captioning import Captioning
from lcl_core.transfer.tasks.classification import Classification
from lcl_core.transfer.tasks.dialogue import Dialogue
from lcl_core.transfer.tasks.few_shot import FewShot
from lcl_core.transfer.tasks.retrieval import Retrieval
from lcl_core.transfer.tasks.tuned_retrieval import TunedRetrieval
from lcl_core.transfer.tasks.zero_shot import ZeroShotClassification

TASKS: dict[str, type[Task]] = {
    each.name: each
    for each in (
        Retrieval,
        Classification,
        ZeroShotClassification,
        FewShot,
        TunedRetrieval,
        Captioning,
        Dialogue,
    )
}
