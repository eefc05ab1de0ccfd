"""The model; importing this registers it with the transformers Auto classes."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import LCLModel, LCLOutput
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.model.processing_lcl import LCLProcessor

AutoConfig.register(LCLConfig.model_type, LCLConfig, exist_ok=True)
AutoModel.register(LCLConfig, LCLModel, exist_ok=True)
AutoProcessor.register(LCLConfig, LCLProcessor, exist_ok=True)

__all__ = ["LCLConfig", "LCLModel", "LCLOutput", "LCLProcessor", "PackedBatch"]
