"""Modules that cannot be streamed whatever is done, refused by their own name."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from service.streaming.lowering import lowers_module
from service.streaming.tracing import Trace


@lowers_module(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
def attention(trace: Trace, module: nn.Module, *_: Any, **__: Any) -> NoReturn:
    trace.refuse(f"{type(module).__name__} over all time", "Run the network per window, which bounds what attention sees.")


@lowers_module(nn.LSTM, nn.GRU, nn.RNN)
def recurrent(trace: Trace, module: nn.RNNBase, *_: Any, **__: Any) -> NoReturn:
    if module.bidirectional:
        trace.refuse(
            f"a bidirectional {type(module).__name__}",
            "It reads the future; use a unidirectional one, or run the network per window.",
        )
    trace.refuse(type(module).__name__, "Register a streamer for it, or run the network per window.")
