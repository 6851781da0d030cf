"""Tracing: an unmodified module runs once on a symbol, and every torch function it calls is lowered to a node of the graph.

The symbol knows its channels and its layout, its batch size and length are symbols too; constants are computed by torch as always.
What has no lowering is refused where it happens, so the error names the user's own source line.
"""

from __future__ import annotations

import copy
import linecache
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from torch import Tensor, nn

from service.errors import NotStreamable
from service.streaming.graph import Graph, View
from service.streaming.numerics import Numerics
from service.streaming.operator import Operator

Lowering = Callable[..., Any]
StreamerFactory = Callable[[Any, int], Operator]

_FUNCTIONS: dict[str, Lowering] = {}
_MODULES: dict[type[nn.Module], Lowering] = {}
_REMEDIES: dict[str, str] = {}
_OWN = (str(Path(__file__).parent), str(Path(torch.__file__).parent))
DEFAULT_REMEDY = "Register a streamer for the module that calls it, or run the network on windows."


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Says how torch functions and tensor methods of these names become nodes: `lowering(trace, *args, **kwargs)`."""

    def register(lowering: Lowering) -> Lowering:
        for name in names:
            _FUNCTIONS[name] = lowering
        return lowering

    return register


def lowers_module(*kinds: type[nn.Module]) -> Callable[[Lowering], Lowering]:
    """Says how modules that cannot be traced through become nodes: `lowering(trace, module, *args)`."""

    def register(lowering: Lowering) -> Lowering:
        for kind in kinds:
            _MODULES[kind] = lowering
        return lowering

    return register


def refuses(remedy: str, *names: str) -> None:
    """Gives functions that can never be streamed a remedy of their own."""
    _REMEDIES.update(dict.fromkeys(names, remedy))


def register_streamer(kind: type[nn.Module], factory: StreamerFactory) -> None:
    """Streams every module of exactly this forward by the operator that `factory(module, channels)` returns.

    The operator reads the module's single input, which has `channels` channels; its offline meaning is the module's own `forward`.
    """

    def lowering(trace: Trace, module: nn.Module, symbol: Symbol) -> Symbol:
        return trace.add(factory(module, symbol.channels), [symbol])

    _MODULES[kind] = lowering


class Layout(Enum):
    """Which dimension of `[B, …]` holds what."""

    BCT = "BCT"
    BTC = "BTC"

    @property
    def channel_dim(self) -> int:
        return self.value.index("C")

    @property
    def time_dim(self) -> int:
        return self.value.index("T")

    @property
    def swapped(self) -> Layout:
        return Layout.BTC if self is Layout.BCT else Layout.BCT


class Extent:
    """A size that is not known at conversion: the batch size, or the length of a value."""

    def __init__(self, trace: Trace, view: View | None) -> None:
        self.trace = trace
        self.view = view

    @property
    def name(self) -> str:
        return "batch size" if self.view is None else "length"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Extent) and self._same(other):
            return True
        self._refuse("compared")

    def _same(self, other: Extent) -> bool:
        if self.view is None or other.view is None:
            return self.view is other.view
        return self.view.timeline.total == other.view.timeline.total

    def __hash__(self) -> int:
        return id(self)

    def _refuse(self, use: str) -> NoReturn:
        self.trace.refuse(
            f"the {self.name} of a value",
            f"The {self.name} of a stream is not known while it runs, so it cannot be {use}. Write the network so that its result "
            f"at a frame does not depend on the {self.name}.",
        )

    def __getattr__(self, name: str) -> Any:
        self._refuse("used in arithmetic")


def _refusing(use: str) -> Callable[..., Any]:
    def method(self: Extent, *_: object) -> NoReturn:
        self._refuse(use)

    return method


for _name in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__floordiv__"):
    setattr(Extent, _name, _refusing("used in arithmetic"))
for _name in ("__mod__", "__neg__", "__int__", "__float__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__"):
    setattr(Extent, _name, _refusing("used in arithmetic or compared"))
Extent.__index__ = _refusing("used as a number")  # type: ignore[attr-defined]


class Symbol:
    """Stands for a tensor `[B, C, T]` or `[B, T, C]` while a module is traced."""

    dtype = torch.float32
    device = torch.device("cpu")
    requires_grad = False
    is_sparse = is_nested = is_quantized = is_complex = is_cuda = False

    def __init__(self, trace: Trace, view: View, layout: Layout) -> None:
        self.trace = trace
        self.view = view
        self.layout = layout
        trace._symbols.add(self)

    @property
    def channels(self) -> int:
        return self.view.channels

    @property
    def ndim(self) -> int:
        return 3

    def dim(self) -> int:
        return 3

    @property
    def shape(self) -> tuple[Any, ...]:
        sizes: list[Any] = [Extent(self.trace, None), self.channels, self.channels]
        sizes[self.layout.time_dim] = Extent(self.trace, self.view)
        return tuple(sizes)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def with_view(self, view: View) -> Symbol:
        return Symbol(self.trace, view, self.layout)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        trace = next(_symbols([*args, *(kwargs or {}).values()])).trace
        return trace.call(function.__name__, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        if not callable(getattr(Tensor, name)):
            return self.trace.call(name, (self,), {})
        return lambda *args, **kwargs: self.trace.call(name, (self, *args), kwargs)

    def __bool__(self) -> bool:
        self.trace.refuse("a branch on data", "Which way it goes would differ from frame to frame; use torch.where.")

    def __iter__(self) -> NoReturn:
        self.trace.refuse("a loop over a tensor", "Use operations on whole tensors.")

    def __len__(self) -> NoReturn:
        self.trace.refuse("the batch size", "Streams are batched freely; the network cannot depend on it.")


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *args: self.trace.call(name, (self, *args), {})


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "floordiv", "mod"):
    setattr(Symbol, f"__{_name}__", _method(_name))
    setattr(Symbol, f"__r{_name}__", _method(f"r{_name}"))
    setattr(Symbol, f"__i{_name}__", _method(f"__i{_name}__"))
for _name in ("neg", "abs", "getitem", "setitem", "lt", "le", "gt", "ge", "eq", "ne", "invert", "and", "or"):
    setattr(Symbol, f"__{_name}__", _method(_name))
Symbol.__hash__ = object.__hash__  # type: ignore[method-assign]


def _symbols(arguments: Sequence[Any]) -> Any:
    for argument in arguments:
        if isinstance(argument, Symbol):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _symbols(argument)


class Trace:
    """One conversion: builds the graph while the module's copy runs."""

    def __init__(self, module: nn.Module, channels: int, layout: Layout, numerics: Numerics) -> None:
        self.numerics = numerics
        self.graph = Graph(channels)
        self.layout = layout
        self._module = copy.deepcopy(module).eval()
        self._path: list[tuple[str, nn.Module]] = []
        self._symbols: WeakSet[Symbol] = WeakSet()

    @torch.no_grad()
    def run(self) -> Graph:
        """The graph of the module. Raises NotStreamable."""
        for name, child in self._module.named_modules():
            self._follow(name, child)
        result = self._module(Symbol(self, View.whole(self.graph.input), self.layout))
        if isinstance(result, tuple | list) and len(result) == 1:
            (result,) = result
        if not isinstance(result, Symbol):
            self.refuse(f"an output of type {type(result).__name__}", "Return one tensor [B, C, T], computed from the input.")
        if result.layout is not self.layout:
            self.refuse("an output in another layout than the input", f"Transpose it back to {self.layout.value}.")
        self.graph.finish(result.view, self.where())
        return self.graph

    def _follow(self, name: str, child: nn.Module) -> None:
        lowering = next((made for kind, made in _MODULES.items() if type(child).forward is kind.forward), None)
        if lowering is not None:
            child.forward = lambda *args, **kwargs: lowering(self, child, *args, **kwargs)  # type: ignore[method-assign]

        def enter(*_: object) -> None:
            self._path.append((name, child))

        def leave(*_: object) -> None:
            self._path.pop()

        child.register_forward_pre_hook(enter)
        child.register_forward_hook(leave)

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Lowers one call of a torch function or tensor method."""
        in_place = name.startswith("__i") or (name.endswith("_") and not name.startswith("__")) or kwargs.pop("inplace", False)
        name = name.removeprefix("__i").strip("_")
        lowering = _FUNCTIONS.get(name)
        if lowering is None:
            self.refuse(name, _REMEDIES.get(name, DEFAULT_REMEDY))
        try:
            result = lowering(self, *args, **kwargs)
        except TypeError as error:
            raise NotStreamable(
                f"{self.where()}: {name} with these arguments cannot be streamed ({error}). {DEFAULT_REMEDY}"
            ) from error
        return self._overwrite(args[0], result) if in_place else result

    def _overwrite(self, target: Symbol, result: Symbol) -> Symbol:
        others = [symbol for symbol in self._symbols if symbol is not target and symbol.view.value is target.view.value]
        if [symbol for symbol in others if symbol is not result]:
            self.refuse(
                "an in-place change of a tensor that is visible through another view",
                "Use the operation that returns a new tensor.",
            )
        target.view, target.layout = result.view, result.layout
        return target

    def add(self, operator: Operator, inputs: Sequence[Symbol]) -> Symbol:
        """A new node; the result has the layout of the first input."""
        view = self.graph.add(operator, [symbol.view for symbol in inputs], self.where())
        return inputs[0].with_view(view)

    def refuse(self, what: str, remedy: str) -> NoReturn:
        """Raises NotStreamable for `what`, at the line that is being traced."""
        raise NotStreamable(f"{self.where()}: {what} cannot be streamed exactly. {remedy}")

    def where(self) -> str:
        """The module and the user's source line that are being traced."""
        parts = []
        if self._path:
            name, module = self._path[-1]
            parts.append(f"module {name!r} ({type(module).__name__})" if name else type(module).__name__)
        frame = sys._getframe(1)
        while frame.f_back is not None and not frame.f_code.co_qualname.startswith("Trace.run"):
            file = frame.f_code.co_filename
            if not file.startswith(_OWN) and not file.startswith("<"):
                line = linecache.getline(file, frame.f_lineno).strip()
                parts.append(f"{file}:{frame.f_lineno}: {line}")
                break
            frame = frame.f_back
        return ", ".join(parts) or "the network"
