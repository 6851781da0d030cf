"""Lets torch's factories take a length that is not known, while a module is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from service.streaming.length import Length, lengths_in
from service.streaming.positions import factory

if TYPE_CHECKING:
    from service.streaming.tracing import Trace

SIZED = ("ones", "zeros")
"""Factories that take sizes one by one, which torch unpacks before any mode sees them."""


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
    """Within it, factories called with lengths return symbols."""
    kept = {name: getattr(torch, name) for name in SIZED}
    for name, original in kept.items():
        setattr(torch, name, _packing(original))
    try:
        with Factories(trace):
            yield
    finally:
        for name, original in kept.items():
            setattr(torch, name, original)


def _packing(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(original)
    def packed(*size: Any, **kwargs: Any) -> Tensor:
        return original(size, **kwargs) if size and isinstance(size[0], Length) else original(*size, **kwargs)

    return packed
