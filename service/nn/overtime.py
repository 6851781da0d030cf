"""What the modules here have in common: two layouts, an offline form and a streaming form."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from service.streaming.lowering import lowers_module
from service.streaming.symbol import Layout, Symbol
from service.streaming.tracing import Trace


class OverTime(nn.Module, ABC):
    """A module over `[B, C, T]`, or over `[B, T, C]` with `layout="BTC"`. Raises ValueError for any other layout."""

    def __init__(self, layout: str = "BCT") -> None:
        super().__init__()
        if layout not in ("BCT", "BTC"):
            raise ValueError(f"layout is {layout!r}; it is 'BCT' or 'BTC'")
        self.layout = Layout(layout)

    def forward(self, x: Float[Tensor, "B _ _"]) -> Float[Tensor, "B _ _"]:
        return self.offline(x) if self.layout is Layout.BCT else self.offline(x.transpose(1, 2)).transpose(1, 2)

    @abstractmethod
    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C_out T_out"]:
        """The result on whole streams."""

    @abstractmethod
    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        """The nodes that compute the same on streams."""


@lowers_module(OverTime)
def over_time(trace: Trace, module: OverTime, x: Symbol) -> Symbol:
    if x.dims is not module.layout:
        wanted = ", ".join(module.layout.value)
        trace.refuse(
            f"{type(module).__name__} of [{', '.join(x.dims.value)}]", f"It takes [{wanted}]: transpose, or give it another layout."
        )
    if _defines(type(module), "offline") is not _defines(type(module), "streamed"):
        # A subclass that changes one of them only is traced through, as any other module is.
        return OverTime.forward(module, x)  # type: ignore[arg-type, return-value]
    return module.streamed(trace, x)


def _defines(kind: type[OverTime], name: str) -> type:
    return next(base for base in kind.__mro__ if name in vars(base))
