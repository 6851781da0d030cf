"""The registry: how torch functions and modules become nodes, and what to say of those that never can."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from service.streaming.operator import Operator

if TYPE_CHECKING:
    from service.streaming.symbol import Symbol
    from service.streaming.tracing import Trace

Lowering = Callable[..., Any]
AnyLowering = TypeVar("AnyLowering", bound=Lowering)
StreamerFactory = Callable[[Any, int], Operator]

DEFAULT_REMEDY = "Register a streamer for the module that calls it, or run it on windows (mode: window)."

SPECIAL = {"special_expit": "sigmoid", "special_gammaln": "lgamma", "special_psi": "digamma"}

_functions: dict[str, Lowering] = {}
_of_any_kind: set[Lowering] = set()
_modules: dict[type[nn.Module], Lowering] = {}
_remedies: dict[str, str] = {}


def lowers(*names: str, any_kind: bool = False) -> Callable[[AnyLowering], AnyLowering]:
    """Says how torch functions and tensor methods of these names become nodes: `lowering(trace, *args, **kwargs)`.

    With `any_kind` they take truths and whole numbers too, not only float32.
    """

    def register(lowering: AnyLowering) -> AnyLowering:
        _functions.update(dict.fromkeys(names, lowering))
        if any_kind:
            _of_any_kind.add(lowering)
        return lowering

    return register


def lowers_module(*kinds: type[nn.Module]) -> Callable[[AnyLowering], AnyLowering]:
    """Says how modules that cannot be traced through become nodes: `lowering(trace, module, *args)`."""

    def register(lowering: AnyLowering) -> AnyLowering:
        _modules.update(dict.fromkeys(kinds, lowering))
        return lowering

    return register


def register_streamer(kind: type[nn.Module], factory: StreamerFactory, layout: str = "BCT") -> None:
    """Streams every module of exactly this forward by the operator that `factory(module, channels)` returns.

    The operator reads the module's single input, which has `channels` channels and the given layout; its offline meaning is the
    module's own `forward`. An input in another layout is refused at conversion. Raises ValueError for a layout that does not exist.
    """
    if sorted(layout) != sorted("BCT"):
        raise ValueError(f"layout is {layout!r}; it names batch, channels and time in their order, such as 'BCT' or 'BTC'")

    def lowering(trace: Trace, module: nn.Module, symbol: Symbol) -> Symbol:
        if symbol.dims.value != layout:
            given, wanted = (f"[{', '.join(letters)}]" for letters in (symbol.dims.value, layout))
            trace.refuse(f"{type(module).__name__} of {given}", f"Its streamer takes {wanted}: transpose before and after it.")
        return trace.add(factory(module, symbol.channels), [symbol])

    _modules[kind] = lowering


def refuses(remedy: str, *names: str) -> None:
    """Gives functions that can never be streamed a remedy of their own."""
    _remedies.update(dict.fromkeys(names, remedy))


def function_lowering(name: str) -> Lowering | None:
    """Functions of `torch.special` are those of torch under another name."""
    if name.startswith("special_"):
        name = SPECIAL.get(name, name.removeprefix("special_"))
    return _functions.get(name)


def takes_any_kind(lowering: Lowering) -> bool:
    return lowering in _of_any_kind


def module_lowering(module: nn.Module) -> Lowering | None:
    """A subclass with a `forward` of its own is not the module that was registered; it is traced through."""
    return next((lowering for kind, lowering in _modules.items() if type(module).forward is kind.forward), None)


def remedy(name: str) -> str:
    return _remedies.get(name, DEFAULT_REMEDY)
