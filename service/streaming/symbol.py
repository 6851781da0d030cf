"""What stands for a tensor while a module is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from service.streaming.axes import Axes, Kind
from service.streaming.graph import View
from service.streaming.length import Length
from service.streaming.memory import Memory
from service.streaming.standin import found_in

if TYPE_CHECKING:
    from service.streaming.tracing import Trace

KINDS = (torch.float32, torch.int64, torch.int32, torch.bool)
"""Of numbers, that rows can hold."""
LARGEST_WHOLE = 1 << 24
"""Up to which a float32 is every whole number."""


class Layout(Enum):
    """Which dimension holds what: batch, channels, time."""

    BCT = "BCT"
    BTC = "BTC"
    TBC = "TBC"
    TCB = "TCB"
    CBT = "CBT"
    CTB = "CTB"

    @property
    def batch_dim(self) -> int:
        return self.value.index("B")

    @property
    def channel_dim(self) -> int:
        return self.value.index("C")

    @property
    def time_dim(self) -> int:
        return self.value.index("T")


class Symbol:
    """Stands for a tensor of batch, time and channels while a module is traced; its `axes` say how it reads the rows of `stored`.

    The batch size is 1, as it is offline for one stream. Crops, transposes and parts of channels share the `memory`.

    Rows are float32 whatever the `dtype`: truths are 0 and 1, whole numbers are those that a float32 can be.

    Its own attributes have names that tensors do not have, since all others mean the tensor's.
    """

    if TYPE_CHECKING:
        __add__: Callable[..., Any]
        __mul__: Callable[..., Any]
        __truediv__: Callable[..., Any]
        __neg__: Callable[..., Any]

    device = torch.device("cpu")
    requires_grad = False
    is_sparse = is_nested = is_quantized = is_cuda = False
    __array_priority__ = 1000  # NumPy's numbers leave arithmetic to it, as they do to tensors

    def __init__(
        self, trace: Trace, stored: View, axes: Axes, memory: Memory | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.tracing = trace
        self.dtype = dtype
        self.memory = memory or Memory(stored.value)
        self.stored = stored
        self.changed = ""
        self.axes = axes
        trace.symbols.add(self)

    def __repr__(self) -> str:
        return f"a value {self.axes}"

    @property
    def stored(self) -> View:
        """The rows; refused once a change in place, at the line that `changed` names, has made others of them."""
        if self.changed:
            self.tracing.refuse(
                f"what an in-place change through another view has made of a tensor, or may have, ({self.changed})",
                "Use the operation that returns a new tensor.",
            )
        return self._stored

    @stored.setter
    def stored(self, view: View) -> None:
        self._stored = view

    @property
    def reads(self) -> View:
        """Rows that hold the factors in the order of the dimensions."""
        return self.tracing.flattened(self.stored, self.axes)

    @property
    def dims(self) -> Layout:
        """The order of batch, channels and time; refuses any other number of dimensions."""
        letters = self.axes.letters
        if len(letters) != 3 or len(set(letters)) != 3:
            self.tracing.refuse(
                f"{self.tracing.calling} of dimensions {self.axes}",
                "It takes batch, one dimension of channels, and time: reshape to them before it, and back behind it.",
            )
        return Layout(letters)

    @property
    def channels(self) -> int:
        """How many numbers a frame has, over all its dimensions."""
        return self.axes.channels

    @property
    def ndim(self) -> int:
        return len(self.axes.each)

    def dim(self) -> int:
        return self.ndim

    def ndimension(self) -> int:
        return self.ndim

    def __len__(self) -> int:
        size: int = self.shape[0]
        return size

    @property
    def shape(self) -> tuple[Any, ...]:
        length = Length(self.tracing, self._stored.timeline.total, self._stored)
        self.tracing.timed.setdefault(length.count, self._stored)
        return tuple(length if axis.kind is Kind.TIME else axis.size for axis in self.axes.each)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def reading(self, view: View) -> Symbol:
        """The same dimensions, of rows like those that it reads."""
        return Symbol(self.tracing, view, self.axes.flat(), self.memory, self.dtype)

    def storing(self, view: View) -> Symbol:
        """The same dimensions, of rows like those that are stored."""
        return Symbol(self.tracing, view, self.axes, self.memory, self.dtype)

    @property
    def copied(self) -> Symbol:
        """The same, in memory of its own, each element in a place of its own."""
        whole = self.reading(self.reads) if self.axes.repeat else self
        return Symbol(self.tracing, whole.stored, whole.axes, Memory.anew(), self.dtype)

    @property
    def in_any_order(self) -> Symbol:
        """The same, over stored rows of which every channel is read."""
        return self if self.axes.is_permutation(self.stored.channels) else self.reading(self.reads)

    def seen_as(self, axes: Axes) -> Symbol:
        """Other dimensions, of the same rows."""
        return Symbol(self.tracing, self.stored, axes, self.memory, self.dtype)

    def remembered(self, memory: Memory) -> Symbol:
        """The same elements, in other memory."""
        return Symbol(self.tracing, self.stored, self.axes, memory, self.dtype)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        trace = next(symbols_in([*args, *(kwargs or {}).values()])).tracing
        return trace.call(function.__name__, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        if not callable(getattr(Tensor, name)):
            return self.tracing.call(name, (self,), {})
        return lambda *args, **kwargs: self.tracing.call(name, (self, *args), kwargs)

    def __iter__(self) -> NoReturn:
        self.tracing.refuse("a loop over a tensor", "Use operations on whole tensors.")


def _branch(self: Symbol) -> NoReturn:
    self.tracing.refuse("a branch on data", "Which way it goes would differ from frame to frame; use torch.where.")


Symbol.__bool__ = _branch  # type: ignore[attr-defined]


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *args: self.tracing.call(name, (self, *args), {})


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "floordiv", "mod", "and", "or", "xor"):
    setattr(Symbol, f"__{_name}__", _method(_name))
    setattr(Symbol, f"__r{_name}__", _method(f"r{_name}"))
    setattr(Symbol, f"__i{_name}__", _method(f"__i{_name}__"))
for _name in ("neg", "abs", "getitem", "setitem", "lt", "le", "gt", "ge", "eq", "ne", "invert"):
    setattr(Symbol, f"__{_name}__", _method(_name))
setattr(Symbol, "__pos__", _method("positive"))  # noqa: B010  # mypy takes it for an operation on the class
Symbol.__hash__ = object.__hash__  # type: ignore[method-assign]


def symbols_in(arguments: Sequence[Any]) -> Iterator[Symbol]:
    """All symbols in a call's arguments, lists and tuples included."""
    return found_in(arguments, Symbol)
