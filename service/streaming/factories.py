"""While a module is traced: torch's factories take a length that is not known, `isinstance` takes symbols for tensors, and what was
compiled or scripted runs as the Python that it was made of."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from service.streaming.length import Length, lengths_in
from service.streaming.positions import factory
from service.streaming.symbol import Symbol, symbols_in

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
        scripted = torch.jit.ScriptFunction.__call__
        torch.jit.ScriptFunction.__call__ = _as_python(trace, scripted)  # type: ignore[method-assign]
        try:
            with Factories(trace), _nothing_compiled():
                yield
        finally:
            torch.jit.ScriptFunction.__call__ = scripted  # type: ignore[method-assign]
            builtins.isinstance = instance
            for name, original in kept.items():
                setattr(torch, name, original)


def _believing(instance: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    tensor = torch.empty(0)

    def isinstance(value: Any, kinds: Any, /) -> bool:
        return instance(value, kinds) or (instance(value, Symbol) and instance(tensor, kinds))

    return isinstance


def _nothing_compiled() -> AbstractContextManager[object]:
    """Compiled functions run as they were written; there are none where nobody has loaded the compiler."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _as_python(trace: Trace, scripted: Callable[..., Any]) -> Callable[..., Any]:
    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        if next(symbols_in(given), None) is None and next(lengths_in(given), None) is None:
            return scripted(function, *args, **kwargs)
        written = getattr(function, "_torchdynamo_inline", None)
        if written is None:
            trace.refuse("a function of TorchScript", "Call the Python function that it was made of.")
        return written(*args, **kwargs)

    return call


def _packing(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(original)
    def packed(*size: Any, **kwargs: Any) -> Tensor:
        return original(size, **kwargs) if size and isinstance(size[0], Length) else original(*size, **kwargs)

    return packed
