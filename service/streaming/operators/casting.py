"""Kinds of numbers: truths and whole numbers among float32.

Rows are float32 throughout. A truth is 0 or 1 in them. A whole number comes from a float32 or from truths, so it is one that a
float32 can be; arithmetic that could leave those is refused, with `.float()` as the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.symbol import KINDS, Symbol
from service.streaming.tracing import Trace

KINDS_BY_NAME = {torch.empty(0, dtype=kind).type(): kind for kind in KINDS}
IN_FLOAT32 = "Programs run in float32; truths, int32 and int64 are the other kinds that stream."


class Cast(Pointwise):
    """Numbers of one kind as those of another, by torch's own conversion: what it makes of a NaN is its affair."""

    name = "cast"

    def __init__(self, channels: int, source: torch.dtype, target: torch.dtype) -> None:
        self.channels = channels
        self.source = source
        self.target = target

    def compute(self, rows: Sequence[Float[Tensor, "M C_in"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        # To bool through its own comparison: a NaN and a fraction are true.
        result = (rows[0] != 0 if self.target is torch.bool else rows[0].to(self.source).to(self.target)).to(rows[0].dtype)
        return result if out is None else out.copy_(result)

    def describe(self) -> str:
        return f"cast({self.source}, {self.target})"


def cast(trace: Trace, symbol: Symbol, target: torch.dtype) -> Symbol:
    """The symbol as numbers of another kind."""
    if target == symbol.dtype:
        return symbol
    if target not in KINDS:
        trace.refuse(f"{trace.calling}, a conversion to {target},", IN_FLOAT32)
    if target is torch.float32 or symbol.dtype is torch.bool:
        copy = symbol.copied
        return Symbol(trace, copy.stored, copy.axes, copy.memory, target)
    return trace.add_each(Cast(symbol.channels, symbol.dtype, target), symbol, dtype=target)


def kind_of(trace: Trace, name: str, *operands: Any) -> torch.dtype:
    """Of which kind torch's result of these operands is; refuses kinds and whole numbers that rows cannot hold."""
    kind, *others = (torch.empty(1, dtype=part.dtype) if isinstance(part, Symbol) else part for part in operands)
    for other in others:
        try:
            kind = torch.empty(1, dtype=torch.result_type(kind, other))
        except TypeError:
            trace.refuse(f"{name} with a {type(other).__name__}", "Use numbers or float32 tensors.")
    found = kind.dtype if isinstance(kind, Tensor) else torch.result_type(kind, kind)
    if found not in KINDS:
        trace.refuse(f"{name} with a {found}", f"Convert the constant with .float(), or use a number. {IN_FLOAT32}")
    for part in operands:
        if isinstance(part, Symbol) or found is torch.float32:
            continue
        exact = torch.as_tensor(part)
        if not torch.equal(exact.to(torch.float32).to(exact.dtype), exact):
            trace.refuse(f"{name} of {found} with numbers as large as {int(exact.abs().max())}", "A float32 cannot hold them.")
    return found


@lowers("to", "type", any_kind=True)
def converted(
    trace: Trace, symbol: Symbol, *target: Any, dtype: Any = None, device: Any = None, copy: bool = False, **_: object
) -> Any:
    if trace.calling == "type" and not target and dtype is None:
        return torch.empty(0, dtype=symbol.dtype).type()
    target = tuple(KINDS_BY_NAME.get(wanted, wanted) if isinstance(wanted, str) else wanted for wanted in target)
    for wanted in (*target, dtype, device):
        if isinstance(wanted, Symbol | Tensor):
            symbol = cast(trace, symbol, wanted.dtype)
        elif isinstance(wanted, torch.dtype):
            symbol = cast(trace, symbol, wanted)
        elif wanted not in (None, symbol.device, "cpu") and not isinstance(wanted, bool):
            trace.refuse(f"a conversion to {wanted}", "Programs run on the device of their state.")
    # `to(…, non_blocking, copy)`: the second of two truths says it by its place.
    truths = [wanted for wanted in target if isinstance(wanted, bool)]
    return symbol.copied if copy or truths[1:] == [True] else symbol


@lowers("type_as", any_kind=True)
def type_as(trace: Trace, symbol: Symbol, other: Any) -> Symbol:
    return cast(trace, symbol, other.dtype)


def _lower_kind(name: str, target: torch.dtype) -> None:
    @lowers(name, any_kind=True)
    def lowering(trace: Trace, symbol: Symbol) -> Symbol:
        return cast(trace, symbol, target)


for _name, _target in {"float": torch.float32, "long": torch.int64, "int": torch.int32, "bool": torch.bool}.items():
    _lower_kind(_name, _target)
for _name, _target in {"double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}.items():
    _lower_kind(_name, _target)
