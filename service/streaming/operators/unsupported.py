"""Modules that cannot be streamed whatever is done, refused by their own name."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from service.streaming.lowering import lowers_module
from service.streaming.tracing import Trace


@lowers_module(nn.TransformerDecoderLayer)
def attention(trace: Trace, module: nn.Module, *_: Any, **__: Any) -> NoReturn:
    trace.refuse(f"{type(module).__name__} over all time", "Run it on windows (mode: window), which bounds what attention sees.")
