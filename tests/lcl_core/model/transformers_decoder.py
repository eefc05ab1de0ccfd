"""The text tower as transformers' own decoding wants a model, to compare ours with."""

from __future__ import annotations

from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from lcl_core.model.generation import PreallocatedCache, TextDecoder


class DecoderConfig(PreTrainedConfig):
    model_type = "lcl_decoder"

    def __init__(self, vocab_size=0, num_hidden_layers=0, **kwargs):
        self.vocab_size, self.num_hidden_layers = vocab_size, num_hidden_layers
        super().__init__(**kwargs)


class TransformersDecoder(PreTrainedModel, GenerationMixin):
    config_class = DecoderConfig
    main_input_name = "input_ids"

    def __init__(self, model):
        super().__init__(DecoderConfig(model.config.vocab_size, model.config.text_layers))
        self.embedding, self.decoder = model.text.token_embedding, TextDecoder(model)

    def forward(self, input_ids=None, inputs_embeds=None, cache=None, **_):
        cache = PreallocatedCache() if cache is None else cache
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        return CausalLMOutputWithPast(logits=self.decoder(x, cache)[:, None], cache=cache)
