"""ONNX export: ``image.onnx`` and ``text.onnx``, each from a processor's output to L2-normalised vectors.

The graphs are put together node by node, not traced: dynamic sizes have names, and an export takes the time that it
takes to copy the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError, import_optional
from lcl_core.encoders.export.files import read_weights, write_inputs, write_model_card
from lcl_core.encoders.files import read_json_object, tensor_sizes
from lcl_core.encoders.registry import CONFIG, WEIGHTS
from lcl_core.model import LCLConfig
from lcl_core.specs.vision import RESNET_STEM, resnet_stages

OPSET = 20  # the first with Gelu
_IR_VERSION = 10  # what goes with it: older runtimes read no newer form
_EPSILON = 1e-5  # of every norm


class OnnxBuilder:
    """Nodes in the order in which they are computed. Every method adds some and gives the name of what they make."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._onnx: Any = import_optional("onnx", "an ONNX graph", "export")
        self._weights = weights
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operation.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(self._weights[name], np.float32)

    def linear(self, x: str, weight: str, bias: str | None = None, *, transposed: bool = True) -> str:
        """x W^T + b of [..., I]; ``transposed``: W is [O, I], as torch keeps it."""
        matrix = self._weights[weight]
        product = self.node("MatMul", x, self.constant(matrix.T if transposed else matrix, np.float32))
        return product if bias is None else self.node("Add", product, self.weight(bias))

    def conv(self, x: str, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> str:
        """A convolution of [n, C, h, w], with a bias where there is one."""
        parts = [self.weight(f"{name}.{part}") for part in ("weight", "bias") if f"{name}.{part}" in self._weights]
        return self.node("Conv", x, *parts, strides=[stride] * 2, pads=[padding] * 4, group=groups)

    def norm(self, x: str, name: str) -> str:
        gain, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=_EPSILON)

    def conv_norm(self, x: str, name: str, stride: int = 1, padding: int = 0) -> str:
        """A convolution and batch normalisation by its running statistics."""
        parts = (self.weight(f"{name}.norm.{part}") for part in ("weight", "bias", "running_mean", "running_var"))
        return self.node("BatchNormalization", self.conv(x, f"{name}.conv", stride, padding), *parts, epsilon=_EPSILON)

    def reshape(self, x: str, *shape: int) -> str:
        """0: the side as it is."""
        return self.node("Reshape", x, self.constant(shape))

    def attend(self, query: str, key: str, value: str, width: int, mask: str | None = None) -> str:
        """softmax(q k^T / sqrt(width) + mask) v of q, v [n, H, L, d] and k [n, H, d, L]."""
        scaled = self.node("Mul", query, self.constant(width**-0.5, np.float32))
        scores = self.node("MatMul", scaled, key)
        scores = scores if mask is None else self.node("Add", scores, mask)
        return self.node("MatMul", self.node("Softmax", scores, axis=-1), value)

    def block(self, x: str, name: str, heads: int, activation: str, mask: str | None = None) -> str:
        """A pre-norm transformer block over [n, L, W]."""
        x = self.node("Add", x, self._mixed(self.norm(x, f"{name}.ln_1"), f"{name}.attn", heads, mask))
        hidden = self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc.weight", f"{name}.mlp.c_fc.bias")
        hidden = self._activated(hidden, activation)
        return self.node("Add", x, self.linear(hidden, f"{name}.mlp.c_proj.weight", f"{name}.mlp.c_proj.bias"))

    def unit(self, x: str) -> str:
        """Rows [n, E] of length 1."""
        length = self.node("ReduceL2", x, self.constant([1]), keepdims=1)
        return self.node("Div", x, self.node("Max", length, self.constant(1e-12, np.float32)))

    def model(self, given: Any, made: Any, output: str, words: str) -> Any:
        """The whole, checked. ``given`` and ``made``: (name, element type, sizes) of what goes in and comes out."""
        helper = self._onnx.helper
        self._nodes.append(helper.make_node("Identity", [output], [made[0]]))
        inputs, outputs = ([helper.make_tensor_value_info(*each)] for each in (given, made))
        graph = helper.make_graph(self._nodes, "lcl", inputs, outputs, self._constants, doc_string=words)
        opset = helper.make_opsetid("", OPSET)
        found = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="lcl")
        self._onnx.checker.check_model(found)
        return found

    def _mixed(self, x: str, name: str, heads: int, mask: str | None) -> str:
        triple, width = self._weights[f"{name}.in_proj_weight"].shape
        each = width // heads
        qkv = self.reshape(self.linear(x, f"{name}.in_proj_weight", f"{name}.in_proj_bias"), 0, 0, 3, heads, each)
        q, k, v = (self.node("Gather", qkv, self.constant(part), axis=2) for part in range(3))
        query, value = (self.node("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        mixed = self.attend(query, self.node("Transpose", k, perm=[0, 2, 3, 1]), value, each, mask)
        rows = self.reshape(self.node("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, triple // 3)
        return self.linear(rows, f"{name}.out_proj.weight", f"{name}.out_proj.bias")

    def _activated(self, x: str, activation: str) -> str:
        if activation == "gelu":
            return self.node("Gelu", x)
        gate = self.node("Sigmoid", self.node("Mul", x, self.constant(1.702, np.float32)))
        return self.node("Mul", x, gate)


IMAGE, TEXT = "image.onnx", "text.onnx"
_TOWERS = {IMAGE: ("visual.", "pool_project."), TEXT: ("text.",)}  # prefixes of the weights in each graph
MAX_BYTES = (2 << 30) - (64 << 20)  # of weights: a file of this form ends at 2 GiB
QUERY_TOKENS = 77  # that are read of a text
_WORDS = f"""
The encoders of Latent Compression Learning. Both give float32 rows of length 1 in one space.

* `{IMAGE}`: `pixel_values` float32 [n, 3, S, S] → `image_embeds` [n, E]; any n.
* `{TEXT}`: `input_ids` int64 [n, L], rows of start, text, end, then zeros → `text_embeds` [n, E]; any n and L, of which
  the first {QUERY_TOKENS} are read.

`preprocessor_config.json` says how images are prepared, `tokenizer.json` holds the vocabulary. Texts are cleaned first,
by `clean` below as in training: ftfy mends mojibake and makes curly quotes, ligatures, wide letters and combining
marks plain ones, HTML entities become letters, blanks collapse, and all is lower-case. Uncleaned, such texts have other
ids. The code needs `pip install ftfy numpy onnxruntime pillow tokenizers`.
"""
_RECIPE = """
import html
import json
import ftfy
import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer

settings = json.load(open("DIR/preprocessor_config.json"))
tokenizer = Tokenizer.from_file("DIR/tokenizer.json")
image_encoder, text_encoder = InferenceSession("DIR/image.onnx"), InferenceSession("DIR/text.onnx")

def upright_rgb(image):
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # grey of 16 bits
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")

def pixels(image):
    image, side = upright_rgb(image), settings["size"]["shortest_edge"]
    longest = max(side, int(side * max(image.size) / min(image.size)))
    width, height = (side, longest) if image.width <= image.height else (longest, side)
    left, top = round((width - side) / 2), round((height - side) / 2)
    square = image.resize((width, height), Image.Resampling.BICUBIC)
    levels = np.asarray(square.crop((left, top, left + side, top + side)), np.float32) / 255
    return ((levels - settings["image_mean"]) / settings["image_std"]).transpose(2, 0, 1).astype(np.float32)

def clean(sentence):
    mended = html.unescape(html.unescape(ftfy.fix_text(sentence)))
    return " ".join(mended.split()).lower()

def ids(sentence):
    words = tokenizer.encode(clean(sentence), add_special_tokens=False).ids
    start, end = (tokenizer.token_to_id(f"<{name}_of_text>") for name in ("start", "end"))
    return np.array([[start, *words, end]], np.int64)

images = image_encoder.run(None, {"pixel_values": np.stack([pixels(image)])})[0]
texts = np.concatenate([text_encoder.run(None, {"input_ids": ids(each)})[0] for each in ("a red bus", "a blue circle")])
likeness = images @ texts.T
"""


def _graph_bytes(weights: Path, towers: tuple[str, ...]) -> int:
    """Of a graph's weights, which are float32 whatever the file holds."""
    return sum(4 * numbers for name, numbers in tensor_sizes(weights).items() if name.startswith(towers))


def write(directory: Path, target: Path) -> None:
    """Both graphs, tokenizer, processor and a README.

    Raises:
        UserError: ``encoder_unreadable``, ``missing_extra``; ``not_expressible`` for more weights than a file can hold.
    """
    onnx: Any = import_optional("onnx", "an ONNX graph", "export")
    for file, towers in _TOWERS.items():
        if (size := _graph_bytes(directory / WEIGHTS, towers)) > MAX_BYTES:
            message = (
                f"{size / (1 << 30):.1f} GiB of weights in float32 do not fit into {file}: such files end at 2 GiB"
            )
            raise UserError(f"{message}; take format=huggingface", code="not_expressible", field="format")
    config = LCLConfig(**read_json_object(directory / CONFIG))
    weights = {name: tensor.numpy() for name, tensor in read_weights(directory, config).items()}
    write_inputs(directory, target)
    onnx.save_model(image_graph(config, weights), target / IMAGE)
    onnx.save_model(text_graph(config, weights), target / TEXT)
    write_model_card(target, "Encoders of images and texts for ONNX", _WORDS, _RECIPE, "onnx")


def image_graph(config: LCLConfig, weights: dict[str, np.ndarray]) -> Any:
    """``pixel_values`` [n, 3, S, S] → ``image_embeds`` [n, E]."""
    onnx: Any = import_optional("onnx", "an ONNX graph", "export")
    graph, given, size = OnnxBuilder(weights), "pixel_values", config.image_size
    features = (_resnet if config.vision == "resnet" else _transformer)(graph, given, config)
    latents = _pooled(graph, graph.norm(features, "visual.ln_post"), config, weights)
    kind = onnx.TensorProto.FLOAT
    inputs, outputs = (given, kind, ["n", 3, size, size]), ("image_embeds", kind, ["n", config.embed_dim])
    return graph.model(inputs, outputs, graph.unit(latents), "images to vectors of length 1")


def _transformer(graph: OnnxBuilder, given: str, config: LCLConfig) -> str:
    """The ViT over ``given`` [n, 3, S, S] → [n, N, W] before the last norm."""
    map_ = graph.conv(given, "visual.conv1", config.patch_size)
    patches = graph.reshape(graph.node("Transpose", map_, perm=[0, 2, 3, 1]), 0, -1, config.vision_width)
    count = graph.node("Concat", graph.node("Shape", given, start=0, end=1), graph.constant([1, 1]), axis=0)
    register = graph.reshape(graph.weight("visual.class_embedding"), 1, 1, -1)
    x = graph.node("Concat", graph.node("Expand", register, count), patches, axis=1)
    x = graph.norm(graph.node("Add", x, graph.weight("visual.positional_embedding")), "visual.ln_pre")
    heads = config.vision_width // config.vision_head_width
    for layer in range(config.vision_layers):
        x = graph.block(x, f"visual.transformer.resblocks.{layer}", heads, config.activation)
    last = graph.constant([np.iinfo(np.int64).max])
    return graph.node("Slice", x, graph.constant([1]), last, graph.constant([1]))  # the class token stays behind


def _resnet(graph: OnnxBuilder, x: str, config: LCLConfig) -> str:
    """ResNet over ``x`` [n, 3, S, S] → [n, N, W] before the last norm."""
    x, number = graph.node("Relu", graph.conv_norm(x, "visual.stem", RESNET_STEM, padding=1)), 0
    for _, depth, _ in resnet_stages(config.tower_sizes):
        for block in range(depth):
            name, stride = f"visual.layers.{number}", 1 if block else 2
            added = graph.node("Relu", graph.conv_norm(x, f"{name}.first", stride, padding=1))
            added = graph.conv_norm(added, f"{name}.second", padding=1)
            x = x if block else graph.conv_norm(x, f"{name}.shortcut", stride)
            x, number = graph.node("Relu", graph.node("Add", x, added)), number + 1
    return graph.reshape(graph.node("Transpose", x, perm=[0, 2, 3, 1]), 0, -1, config.vision_width)


def text_graph(config: LCLConfig, weights: dict[str, np.ndarray]) -> Any:
    """``input_ids`` [n, L] → ``text_embeds`` [n, E]: each text is read as what stands before an image."""
    onnx: Any = import_optional("onnx", "an ONNX graph", "export")
    graph, given = OnnxBuilder(weights), "input_ids"
    one, nothing = graph.constant([1]), graph.constant([0])
    ids = graph.node("Slice", given, nothing, graph.constant([min(QUERY_TOKENS, config.context_length)]), one)
    length = graph.node("Shape", ids, start=1, end=2)
    places = graph.node("Range", graph.constant(0), graph.node("Squeeze", length), graph.constant(1))
    is_end = graph.node("Equal", ids, graph.constant(config.eot_token_id))
    is_end = graph.node("Cast", is_end, to=onnx.TensorProto.INT64)
    has_end = graph.node("Cast", graph.node("ReduceMax", is_end, one, keepdims=1), to=onnx.TensorProto.BOOL)
    first = graph.node("ArgMax", is_end, axis=1, keepdims=1)
    ends = graph.node("Where", has_end, first, graph.node("Sub", length, one))  # [n, 1]
    ids = graph.node("Where", graph.node("Equal", places, ends), graph.constant(config.soi_token_id), ids)
    x = graph.node("Gather", graph.weight("text.token_embedding.weight"), ids)
    x = graph.node("Add", x, graph.node("Gather", graph.weight("text.positional_embedding"), places))
    if config.text_attention == "causal":
        hidden = graph.node("Less", graph.node("Unsqueeze", places, one), places)  # [L, L]: key right of query
    else:  # [n, 1, 1, L]: key right of the text
        hidden = graph.node("Unsqueeze", graph.node("Less", ends, places), graph.constant([1, 2]))
    mask = graph.node("Where", hidden, graph.constant(-np.inf, np.float32), graph.constant(0, np.float32))
    for layer in range(config.text_layers):
        x = graph.block(x, f"text.transformer.resblocks.{layer}", config.text_heads, config.activation, mask)
    read = graph.norm(graph.node("GatherND", x, ends, batch_dims=1), "text.ln_final")
    features = graph.linear(read, "text.text_projection", transposed=False)
    inputs = (given, onnx.TensorProto.INT64, ["n", "length"])
    outputs = ("text_embeds", onnx.TensorProto.FLOAT, ["n", config.embed_dim])
    return graph.model(inputs, outputs, graph.unit(features), "texts to vectors of length 1")


def _pooled(graph: OnnxBuilder, x: str, config: LCLConfig, weights: dict[str, np.ndarray]) -> str:
    """Patch features [n, N, W] → pooled latents [n, E]. The query is the same for every image."""
    pooler, cross, heads = "pool_project.pooler", "pool_project.pooler.cross_attn", config.pool_heads
    width = config.embed_dim // heads
    query = graph.norm(graph.weight("pool_project.query_token"), f"{pooler}.norm1_q")
    query = graph.linear(query, f"{cross}.q.weight", f"{cross}.q_bias")
    query = graph.reshape(query, 1, heads, 1, width)
    key = graph.linear(graph.norm(x, f"{pooler}.norm1_k"), f"{cross}.k.weight", f"{cross}.k_bias")
    value = graph.linear(graph.norm(x, f"{pooler}.norm1_v"), f"{cross}.v.weight", f"{cross}.v_bias")
    key = graph.node("Transpose", graph.reshape(key, 0, 0, heads, width), perm=[0, 2, 3, 1])
    value = graph.node("Transpose", graph.reshape(value, 0, 0, heads, width), perm=[0, 2, 1, 3])
    mixed = graph.reshape(graph.attend(query, key, value, width), 0, config.embed_dim)
    return graph.linear(mixed, f"{cross}.proj.weight")
