"""The one vocabulary of REST, command line, workers and page: what a job is to do. Knows no torch.

Every field carries its meaning, unit and bounds; forms and documentation are made from the JSON schema.
"""

from lcl_core.errors import UserError
from lcl_core.specs.base import Name
from lcl_core.specs.convert import ConvertSpec
from lcl_core.specs.data import VIEW_GIVES, AugmentationSpec, DataSpec, SourceSpec, View
from lcl_core.specs.engine import EngineSpec
from lcl_core.specs.evaluate import EvaluateSpec
from lcl_core.specs.identity import spec_hash
from lcl_core.specs.index import IndexSpec
from lcl_core.specs.match import MatchSpec
from lcl_core.specs.metric import MetricSpec
from lcl_core.specs.model import ModelSpec, TokenizerSpec
from lcl_core.specs.objective import METHODS, Method, MethodName, ObjectiveSpec
from lcl_core.specs.parsing import (
    SPECS,
    AnySpec,
    Kind,
    collections_of,
    dataset_fields,
    datasets_of,
    encoders_of,
    nodes_of,
    parse_as,
    parse_spec,
    places_of,
)
from lcl_core.specs.presets import presets
from lcl_core.specs.pretrain import BatchSpec, OptimizerSpec, PretrainSpec
from lcl_core.specs.search import ChoiceSpec, GridSearch, HalvingSearch, RandomSearch, RangeSpec
from lcl_core.specs.study import AdditionSpec, AxisSpec, StudySpec, VariantSpec
from lcl_core.specs.tasks import (
    BenchmarkSpec,
    CaptioningSpec,
    ClassificationSpec,
    DecodingSpec,
    DerivedSpec,
    DialogueSpec,
    FewShotSpec,
    InstructionsSpec,
    LanguageModelSpec,
    StageSpec,
    TunedRetrievalSpec,
    ZeroShotSpec,
)
from lcl_core.specs.tuning import Transfer, TuningSpec
from lcl_core.specs.validate import CorpusSpec, ValidateSpec

__all__ = [
    "METHODS",
    "SPECS",
    "VIEW_GIVES",
    "AdditionSpec",
    "AnySpec",
    "AugmentationSpec",
    "AxisSpec",
    "BatchSpec",
    "BenchmarkSpec",
    "CaptioningSpec",
    "ChoiceSpec",
    "ClassificationSpec",
    "ConvertSpec",
    "CorpusSpec",
    "DataSpec",
    "DecodingSpec",
    "DerivedSpec",
    "DialogueSpec",
    "EngineSpec",
    "EvaluateSpec",
    "FewShotSpec",
    "GridSearch",
    "HalvingSearch",
    "IndexSpec",
    "InstructionsSpec",
    "Kind",
    "LanguageModelSpec",
    "MatchSpec",
    "Method",
    "MethodName",
    "MetricSpec",
    "ModelSpec",
    "Name",
    "ObjectiveSpec",
    "OptimizerSpec",
    "PretrainSpec",
    "RandomSearch",
    "RangeSpec",
    "SourceSpec",
    "StageSpec",
    "StudySpec",
    "TokenizerSpec",
    "Transfer",
    "TunedRetrievalSpec",
    "TuningSpec",
    "UserError",
    "ValidateSpec",
    "VariantSpec",
    "View",
    "ZeroShotSpec",
    "collections_of",
    "dataset_fields",
    "datasets_of",
    "encoders_of",
    "nodes_of",
    "parse_as",
    "parse_spec",
    "places_of",
    "presets",
    "spec_hash",
]
