"""While a module is traced: torch's factories take a length that is not known, and `isinstance` takes symbols for tensors."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from service.streaming.length import Length, lengths_in
from service.streaming.positions import factory
from service.streaming.symbol import Symbol

if TYPE_CHECKING:
    from service.streaming.tracing import Trace

SIZED = ("ones", "zeros", "empty", "rand", "randn")
"""Factories that take sizes one by one, which torch unpacks before any mode sees them."""


TRACING = RLock()


class Factories(TorchFunctionMode):
    """Hands calls with a length among their arguments to `positions.factory`; all others go on."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if all(kind is Length for kind in types) and next(lengths_in([*args, *kwargs.values()]), None) is not None:
            return factory(self._trace, function.__name__, args, kwargs)
        return function(*args, **kwargs)


@contextmanager
def symbolic_factories(trace: Trace) -> Iterator[None]:
    """Within it, factories called with lengths return symbols, and symbols pass for tensors; one thread at a time."""
    with TRACING:
        kept = {name: getattr(torch, name) for name in SIZED}
        instance = builtins.isinstance
        for name, original in kept.items():
            setattr(torch, name, _packing(original))
        # Not by a `__class__` of symbols: torch's own code would believe it and read memory that is not there.
        builtins.isinstance = _believing(instance)
        try:
            with Factories(trace):
                yield
        finally:
            builtins.isinstance = instance
            for name, original in kept.items():
                setattr(torch, name, original)


def _believing(instance: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    tensor = torch.empty(0)

    def isinstance(value: Any, kinds: Any, /) -> bool:
        return instance(value, kinds) or (instance(value, Symbol) and instance(tensor, kinds))

    return isinstance


def _packing(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(original)
    def packed(*size: Any, **kwargs: Any) -> Tensor:
        return original(size, **kwargs) if size and isinstance(size[0], Length) else original(*size, **kwargs)

    return packed
