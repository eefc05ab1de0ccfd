"""The one vocabulary of REST, command line, workers and page: what a job is to do. Knows no torch.

Every field carries its meaning, unit and bounds; forms and documentation are made from the JSON schema.
"""

from lcl_core.errors import UserError
from lcl_core.specs.base import Name
from lcl_core.specs.convert import ConvertSpec
from lcl_core.specs.data import AugmentationSpec, DataSpec, SourceSpec
from lcl_core.specs.engine import EngineSpec
from lcl_core.specs.evaluate import ClassificationSpec, EvaluateSpec
from lcl_core.specs.index import IndexSpec
from lcl_core.specs.match import MatchSpec
from lcl_core.specs.model import ModelSpec, TokenizerSpec
from lcl_core.specs.parsing import SPECS, AnySpec, Kind, datasets_of, encoders_of, parse_spec, path_of
from lcl_core.specs.presets import presets
from lcl_core.specs.pretrain import BatchSpec, ObjectiveSpec, OptimizerSpec, PretrainSpec
from lcl_core.specs.validate import CorpusSpec, ValidateSpec

__all__ = [
    "SPECS",
    "AnySpec",
    "AugmentationSpec",
    "BatchSpec",
    "ClassificationSpec",
    "ConvertSpec",
    "CorpusSpec",
    "DataSpec",
    "EngineSpec",
    "EvaluateSpec",
    "IndexSpec",
    "Kind",
    "MatchSpec",
    "ModelSpec",
    "Name",
    "ObjectiveSpec",
    "OptimizerSpec",
    "PretrainSpec",
    "SourceSpec",
    "TokenizerSpec",
    "UserError",
    "ValidateSpec",
    "datasets_of",
    "encoders_of",
    "parse_spec",
    "path_of",
    "presets",
]
