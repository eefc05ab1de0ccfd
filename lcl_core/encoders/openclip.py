"""OpenCLIP: a directory with ``open_clip_config.json`` and safetensors, as its ``push_to_hf_hub`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lcl_core.common.errors import import_optional
from lcl_core.encoders.base import (
    ExternalImageEncoder,
    ExternalTextEncoder,
    check_token_ids,
    feature_map_to_tokens,
    square_side,
)
from lcl_core.encoders.files import read_json_object
from lcl_core.encoders.registry import OPENCLIP_CONFIG


class OpenCLIPImageEncoder(ExternalImageEncoder):
    """Both sides of a CLIP, CoCa or SigLIP model; patch tokens after its last norm, where that fits them."""

    kind = "openclip"

    def build(self, trained: bool) -> None:
        library: Any = import_optional("open_clip", "an OpenCLIP encoder", "interop")
        self.library = f"open_clip {library.__version__}"
        config = read_json_object(self.directory / OPENCLIP_CONFIG)["model_cfg"]

        # with its text tower apart, so that either side can be copied and trained alone
        model = library.create_model(
            f"local-dir:{self.directory}", load_weights=False, pretrained_text=False, force_custom_text=True
        )
        if trained:
            library.load_checkpoint(model, str(self.directory / self.origin.weights[0]), strict=True)
        self.module = model.visual
        settings = library.transform.PreprocessCfg(**model.visual.preprocess_cfg)
        self.mean, self.deviation = settings.mean, settings.std
        self.image_size = square_side(self.directory, model.visual.image_size)
        self.transform_image = library.transform.image_transform_v2(settings, is_train=False)
        local = {"trust_remote_code": False} if config["text_cfg"].get("hf_tokenizer_name") else {}
        tokenizer = library.get_tokenizer(f"local-dir:{self.directory}", **local)
        check_token_ids(self.directory, tokenizer, model.text.token_embedding.num_embeddings)
        self._text_encoder = OpenCLIPTextEncoder(model.text, tokenizer)

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        sight: Any = self.module
        norm_fits = getattr(sight, "attn_pool", None) is None  # CoCa's last norm is of what its pooler makes
        found = sight.forward_intermediates(pixels, indices=1, normalize_intermediates=norm_fits)
        return found["image_features"], feature_map_to_tokens(found["image_intermediates"][-1])

    def layers(self) -> list[list[nn.Parameter]]:
        """A ViT registers its projection, the last step of all, among the first parameters."""
        last = getattr(self.module, "proj", None)
        if not isinstance(last, nn.Parameter):
            return super().layers()
        groups = [[parameter for parameter in group if parameter is not last] for group in super().layers()]
        return [*groups[:-1], [*groups[-1], last]]


class OpenCLIPTextEncoder(ExternalTextEncoder):
    """The text tower with its tokenizer."""

    def features(self, texts: Sequence[str]) -> Tensor:
        found = self.module(self.tokenizer(list(texts)).to(self.device))
        return found[0] if isinstance(found, tuple) else found  # CoCa gives its tokens, too

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        inner = getattr(self.tokenizer, "tokenizer", None)  # of Hugging Face, where it is one of theirs
        return (self.tokenizer(list(texts)) != getattr(inner, "pad_token_id", 0)).sum(1).tolist()
