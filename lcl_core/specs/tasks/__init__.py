"""What each task of an evaluation can be told, a file a task."""

from lcl_core.specs.tasks.captioning import CaptioningSpec
from lcl_core.specs.tasks.classification import ClassificationSpec
from lcl_core.specs.tasks.dialogue import BenchmarkSpec, DerivedSpec, DialogueSpec, InstructionsSpec, StageSpec
from lcl_core.specs.tasks.few_shot import FewShotSpec
from lcl_core.specs.tasks.language import DecodingSpec, LanguageModelSpec
from lcl_core.specs.tasks.tuned_retrieval import TunedRetrievalSpec
from lcl_core.specs.tasks.zero_shot import ZeroShotSpec

__all__ = [
    "BenchmarkSpec",
    "CaptioningSpec",
    "ClassificationSpec",
    "DecodingSpec",
    "DerivedSpec",
    "DialogueSpec",
    "FewShotSpec",
    "InstructionsSpec",
    "LanguageModelSpec",
    "StageSpec",
    "TunedRetrievalSpec",
    "ZeroShotSpec",
]
