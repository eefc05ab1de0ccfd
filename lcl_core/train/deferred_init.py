"""A model that is built without memory, and whose initial weights are drawn later, one tensor at a time.

A rank of a sharded model keeps a part of every tensor, and need never have the whole model. Its constructor runs with
tensors on the meta device, and every operation that sets their values is recorded. :meth:`InitialWeights.draw` repeats
these in the same order with a generator of the same seed, so the weights are bitwise those of a usual start. Tensors
are drawn more than once (by torch's defaults, then by the model's own rules): every draw is repeated, as each advances
the generator, but values are kept from the last complete assignment on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_ASSIGNMENTS = (_aten.uniform_.default, _aten.normal_.default, _aten.fill_.Scalar, _aten.zero_.default)
_FILLED = {_aten.zeros.default: 0, _aten.ones.default: 1}  # factories and their value
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class _Operation:
    """An operation in place on one tensor, and numbers."""

    function: Any
    target: Tensor
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def storage(self) -> int:
        return self.target.untyped_storage()._cdata

    @property
    def random(self) -> bool:
        return torch.Tag.nondeterministic_seeded in self.function.tags

    @property
    def assigns(self) -> bool:
        return self.function in _ASSIGNMENTS

    def run(self, tensor: Tensor, generator: torch.Generator) -> None:
        options = {**self.options, "generator": generator} if self.random else self.options
        self.function(tensor, *self.arguments, **options)


class _Recorder(TorchDispatchMode):
    """Creates tensors on the meta device, and records what sets their values. Raises: RuntimeError for all else."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []

    def __torch_dispatch__(
        self, function: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (*_FILLED, _aten.full.default, _aten.empty.memory_format):
            made = function(*args, **{**kwargs, "device": "meta"})
            if function is not _aten.empty.memory_format:
                value = args[1] if function is _aten.full.default else _FILLED[function]
                self.operations.append(_Operation(_aten.fill_.Scalar, made, (value,)))
            return made
        absent = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.is_meta]
        if function._schema.is_mutable and len(absent) == 1 and args[0] is absent[0]:
            self._record(function, args, kwargs)
        elif torch.Tag.nondeterministic_seeded in function.tags or (absent and not _is_view(function)):
            raise RuntimeError(f"{function} needs a value that a model on the meta device does not have")
        return function(*args, **kwargs)

    def _record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        target, *numbers = args
        if target.nbytes != target.untyped_storage().nbytes() or not target.is_contiguous():
            raise RuntimeError(f"{function} sets a part of a tensor, which cannot be repeated")
        self.operations.append(_Operation(function, target.detach(), tuple(numbers), kwargs))


def _is_view(function: Any) -> bool:
    return any(value.alias_info is not None for value in function._schema.returns)


class InitialWeights:
    """How the initial values of a module's parameters and buffers are drawn.

    Raises: RuntimeError when one of them has none.
    """

    def __init__(self, module: nn.Module, operations: Sequence[_Operation]) -> None:
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._operations = operations
        self._known = {name: tensor.detach() for name, tensor in named.items() if not tensor.is_meta}
        self._names = {t.untyped_storage()._cdata: name for name, t in named.items() if t.is_meta}
        self._first: dict[int, int] = {}  # by storage: the last complete assignment
        self._last: dict[int, int] = {}  # by storage: the last operation
        for number, operation in enumerate(operations):
            if operation.storage in self._names:
                self._last[operation.storage] = number
                if operation.assigns:
                    self._first[operation.storage] = number
        if unset := [name for storage, name in self._names.items() if storage not in self._first]:
            raise RuntimeError(f"{', '.join(unset)} have no initial values")

    def draw(self, seed: int, put: Callable[[str, Tensor], None]) -> None:
        """Call ``put`` with the name and the whole value, on the CPU, of each tensor in turn.

        Besides what ``put`` keeps, one tensor is in memory at a time. The global generators are unchanged.
        """
        for name, known in self._known.items():
            put(name, known)
        generator = torch.Generator().manual_seed(seed)
        live: dict[int, Tensor] = {}
        for number, operation in enumerate(self._operations):
            storage = operation.storage
            kept = storage in self._first and number >= self._first[storage]
            if not kept and not operation.random:
                continue
            if storage not in live:
                live[storage] = torch.empty(operation.target.shape, dtype=operation.target.dtype)
            operation.run(live[storage], generator)
            if kept and number == self._last[storage]:
                put(self._names[storage], live[storage])
            if not kept or number == self._last[storage]:
                del live[storage]


def lacks_values(module: nn.Module) -> bool:
    """Whether some parameters are on the meta device."""
    return any(parameter.is_meta for parameter in module.parameters())


@torch.no_grad()
def build_deferred(build: Callable[[], _Module]) -> tuple[_Module, InitialWeights]:
    """What ``build`` returns, on the meta device except tensors made from Python numbers, and its initial weights.

    Raises: RuntimeError where they depend on values, such as a draw that is repeated until it is within bounds.
    """
    with _Recorder() as recorder:
        module = build()
    return module, InitialWeights(module, recorder.operations)
