"""The model; importing this registers it with the transformers Auto classes."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from lcl_core.model.batch import PackedBatch
from lcl_core.model.configuration import LCLConfig
from lcl_core.model.modeling import LCLModel
from lcl_core.model.output import LCLOutput
from lcl_core.model.processor import LCLProcessor

AutoConfig.register(LCLConfig.model_type, LCLConfig, exist_ok=True)
AutoModel.register(LCLConfig, LCLModel, exist_ok=True)
AutoProcessor.register(LCLConfig, LCLProcessor, exist_ok=True)

__all__ = ["LCLConfig", "LCLModel", "LCLOutput", "LCLProcessor", "PackedBatch"]
