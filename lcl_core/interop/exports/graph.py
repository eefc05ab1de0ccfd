"""ONNX graphs put together by hand: the few operations of which both towers are made.

Nothing is traced. A graph is what is written here, so that its dynamic sizes are what they are called, and it is made
in the time that it takes to copy the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lcl_core.extras import optional

OPSET = 20  # the first with Gelu
_IR = 10  # what goes with it: older runtimes read no newer form
_EPSILON = 1e-5  # of every norm


class Graph:
    """Nodes in the order in which they are computed. Every method adds some and gives the name of what they make."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._onnx: Any = optional("onnx", "an ONNX graph", "export")
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

    def norm(self, x: str, name: str) -> str:
        gain, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=_EPSILON)

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
        found = helper.make_model(graph, opset_imports=[opset], ir_version=_IR, producer_name="lcl")
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
