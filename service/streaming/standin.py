"""What stands for a tensor while a module is traced without being a value over time: looked up by name, whatever is called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

Kind = TypeVar("Kind")

BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
OTHERS = ("neg", "abs", "getitem", "setitem", "invert", "lt", "le", "gt", "ge", "eq", "ne")


class StandIn(ABC):
    """Torch functions and tensor methods of it, operators too, become a `call` by their name."""

    device = torch.device("cpu")
    requires_grad = False
    is_sparse = is_nested = False

    @abstractmethod
    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a torch function or tensor method; refused where there is none."""

    @abstractmethod
    def refuse(self, what: str) -> NoReturn:
        """Raises NotStreamable for `what` of it."""

    def __iter__(self) -> NoReturn:
        self.refuse("a loop")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        if not callable(getattr(Tensor, name)):
            self.refuse(name)
        return lambda *args, **kwargs: self.call(name, (self, *args), kwargs)


def _branch(self: StandIn) -> NoReturn:
    self.refuse("a branch on data")


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *args: self.call(name, (self, *args), {})


for _name in (*BINARY, *(f"r{name}" for name in BINARY), *OTHERS):
    setattr(StandIn, f"__{_name}__", _operator(_name))
StandIn.__bool__ = _branch  # type: ignore[attr-defined]
StandIn.__hash__ = object.__hash__  # type: ignore[method-assign]


def found_in(arguments: Sequence[Any], kind: type[Kind]) -> Iterator[Kind]:
    """All of a kind among a call's arguments, lists and tuples included."""
    for argument in arguments:
        if isinstance(argument, kind):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from found_in(argument, kind)
