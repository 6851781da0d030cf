"""LSTM, GRU and RNN: the input's share of the gates in one product, then a loop over the longest chunk with the active rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from service.streaming.lowering import lowers_module
from service.streaming.numerics import Gemm, Numerics
from service.streaming.operator import Flags, Recurrence
from service.streaming.operators.pointwise import sigmoid
from service.streaming.symbol import Symbol
from service.streaming.timeline import Frames
from service.streaming.tracing import Trace
from service.streaming.turn import Span


class Layer(Recurrence):
    """One layer of one direction; the memory is `h`, then whatever else the cell keeps."""

    memories = 1

    def __init__(self, module: nn.RNNBase, layer: int, initial: Float[Tensor, "S"], numerics: Numerics) -> None:
        self.channels = module.hidden_size
        self.initial = initial
        parameters = [getattr(module, f"{name}_l{layer}", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        self.parameters = [parameter.detach().clone() for parameter in parameters if parameter is not None]
        into, back, *biases = (self._arranged(parameter) for parameter in self.parameters)
        into_bias, back_bias = biases or (None, None)
        self.into = Gemm(into.t(), into_bias, numerics)
        self.back = Gemm(back.t(), back_bias, numerics, few=True)

    def legal(self, *totals: Frames) -> Flags:
        return totals[0] >= 1

    @property
    def reach(self) -> int:
        return 1

    def products(self) -> tuple[Gemm, ...]:
        # Not the one that goes round: its rounding would add up over the stream.
        return (self.into,)

    def _arranged(self, parameter: Tensor) -> Tensor:
        """The gates in the order in which the cell takes them."""
        return parameter

    @abstractmethod
    def cell(self, into: Float[Tensor, "a G"], back: Float[Tensor, "a G"], memory: Float[Tensor, "a S"]) -> Float[Tensor, "a S"]:
        """The memory after one frame, from both shares of the gates and the memory before it."""

    def advance(
        self, rows: Float[Tensor, "M C_in"], span: Span, hidden: Float[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "B S"]]:
        order = span.time_major
        into = self.into(rows.index_select(0, order.rows))
        memory = hidden.index_select(0, order.streams)
        made = torch.empty(len(rows), self.channels, dtype=rows.dtype, device=rows.device)
        first = 0
        for active in order.active:
            before = memory[:active]
            after = self.cell(into[first : first + active], self.back(before[:, : self.channels].contiguous()), before)
            memory[:active] = after
            made[first : first + active] = after[:, : self.channels]
            first += active
        return made.index_select(0, order.places), hidden.index_copy(0, order.streams, memory)

    def weights(self) -> tuple[Tensor, ...]:
        return self.initial, *self.parameters

    def describe(self) -> str:
        return f"{self.name}({self.channels})"


class LstmLayer(Layer):
    """`c = f * c + i * g`, `h = o * tanh(c)`; torch's order of gates is i, f, g, o."""

    name = "lstm"
    memories = 2

    def _arranged(self, parameter: Tensor) -> Tensor:
        i, f, g, o = parameter.chunk(4)
        return torch.cat([i, f, o, g])

    def cell(self, into: Float[Tensor, "a G"], back: Float[Tensor, "a G"], memory: Float[Tensor, "a S"]) -> Float[Tensor, "a S"]:
        size = self.channels
        gates = into + back
        opened = sigmoid(gates[:, : 3 * size])
        state = opened[:, size : 2 * size] * memory[:, size:] + opened[:, :size] * torch.tanh(gates[:, 3 * size :])
        return torch.cat([opened[:, 2 * size :] * torch.tanh(state), state], 1)


class GruLayer(Layer):
    """`h = (1 - z) * n + z * h` with `n = tanh(into + r * back)`; torch's order of gates is r, z, n."""

    name = "gru"

    def cell(self, into: Float[Tensor, "a G"], back: Float[Tensor, "a G"], memory: Float[Tensor, "a S"]) -> Float[Tensor, "a S"]:
        size = self.channels
        opened = sigmoid(into[:, : 2 * size] + back[:, : 2 * size])
        update = opened[:, size:]
        fresh = torch.tanh(into[:, 2 * size :] + opened[:, :size] * back[:, 2 * size :])
        return fresh + update * (memory - fresh)


class RnnLayer(Layer):
    """`h = tanh(into + back)`, or relu."""

    name = "rnn"

    def __init__(self, module: nn.RNN, layer: int, initial: Float[Tensor, "S"], numerics: Numerics) -> None:
        super().__init__(module, layer, initial, numerics)
        self.nonlinearity = module.nonlinearity

    def cell(self, into: Float[Tensor, "a G"], back: Float[Tensor, "a G"], memory: Float[Tensor, "a S"]) -> Float[Tensor, "a S"]:
        gates = into + back
        return torch.tanh(gates) if self.nonlinearity == "tanh" else torch.relu(gates)

    def describe(self) -> str:
        return f"{super().describe()} {self.nonlinearity}"


class LastState:
    """The state at the end of a sequence, which a stream does not have; any use of it is refused, taking it apart is not."""

    def __init__(self, trace: Trace, memories: int) -> None:
        self._trace = trace
        self._memories = memories

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    def __getitem__(self, key: object) -> NoReturn:
        self._refuse()

    def __iter__(self) -> Iterator[LastState]:
        if self._memories < 2:
            self._refuse()
        return (LastState(self._trace, 1) for _ in range(self._memories))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> NoReturn:
        next(argument for argument in args if isinstance(argument, LastState))._refuse()

    def _refuse(self) -> NoReturn:
        self._trace.refuse(
            "the state at the end of the sequence", "Use the output at every frame, or run it on windows (mode: window)."
        )


LAYERS: dict[type[nn.RNNBase], type[Layer]] = {nn.LSTM: LstmLayer, nn.GRU: GruLayer, nn.RNN: RnnLayer}


@lowers_module(*LAYERS)
def recurrent(trace: Trace, module: nn.RNNBase, input: Symbol, hx: Any = None) -> tuple[Symbol, LastState]:
    kind = next(kind for kind in LAYERS if isinstance(module, kind))
    if module.bidirectional:
        trace.refuse(
            f"a bidirectional {kind.__name__}",
            "It reads the future; use a unidirectional one, or run it on windows (mode: window).",
        )
    if module.proj_size:
        trace.refuse(f"{kind.__name__} with proj_size", "Use a Linear behind it.")
    initial = _initial(trace, module, hx, LAYERS[kind].memories)
    expected = "BTC" if module.batch_first else "TBC"
    if input.dims.value != expected:
        trace.refuse(f"{kind.__name__} over another dimension than time", f"Give it [{', '.join(expected)}].")
    if input.channels != module.input_size:
        trace.refuse_channels(input, input.channels, module.input_size)
    for layer in range(module.num_layers):
        input = trace.add(LAYERS[kind](module, layer, initial[layer], trace.numerics), [input])
    return input, LastState(trace, LAYERS[kind].memories)


def _initial(trace: Trace, module: nn.RNNBase, hx: Any, memories: int) -> Float[Tensor, "layers S"]:
    """The memory of a stream that has not begun, per layer; zeros unless the network gives another."""
    if hx is None:
        return torch.zeros(module.num_layers, memories * module.hidden_size)
    given = hx if isinstance(hx, tuple) else (hx,)
    shape = (module.num_layers, 1, module.hidden_size)
    if len(given) != memories or any(not isinstance(part, Tensor) or part.shape != shape for part in given):
        trace.refuse(
            "an initial state that is not constant, or of another shape", f"Give {memories} constant tensor(s) {list(shape)}."
        )
    return torch.cat([part[:, 0].detach() for part in given], 1)
