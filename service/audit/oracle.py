"""Both opinions on a stream: the plain module offline on the whole signal, and a fresh program fed the whole signal at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from service.audit.history import OfferedStream
from service.streaming import Precision, Program, Ragged


class ModuleOracle:
    """`Oracle` of an application's module and program. `nulls`: the predictions' format has no word for what is not finite, and
    readers find NaN."""

    def __init__(self, module: nn.Module, program: Program, nulls: bool = False) -> None:
        self._module = module.to(program.device)
        self._program = program
        self._nulls = nulls

    @property
    def decimation(self) -> float:
        return self._program.decimation

    @property
    def tolerance(self) -> float:
        """None is asked of a lower precision: where a threshold is crossed differs then. Its bits are judged all the same."""
        return self._program.precision.tolerance if self._program.precision is Precision.FLOAT32 else float("inf")

    def ready(self, frames: int) -> int:
        return int(self._program.ready(frames))

    def total(self, frames: int) -> int | None:
        return int(self._program.total(frames)) if self._program.accepts(frames) else None

    def offline(self, stream: OfferedStream) -> Float32[np.ndarray, "M C_out"]:
        """A stream that has not ended is continued with zeros to a length that the module takes; what depends on them is cut."""
        x = torch.from_numpy(stream.samples()).to(self._program.device)
        frames = len(x)
        whole = stream.ended and self._program.accepts(frames)
        count = int(self._program.total(frames) if whole else self._program.ready(frames))
        if not count:
            return np.zeros((0, 1), np.float32)
        longer = frames
        while not self._program.accepts(longer):
            longer += 1
        x = nn.functional.pad(x, (0, 0, 0, longer - frames))
        with torch.inference_mode():
            y = self._module(x.T[None])[0].T[:count]
        return self._read(np.ascontiguousarray(y.float().cpu().numpy()))

    def streamed(self, streams: Sequence[OfferedStream]) -> list[Float32[np.ndarray, "M C_out"]]:
        signals = [torch.from_numpy(stream.samples()) for stream in streams]
        lengths = torch.tensor([len(signal) for signal in signals])
        final = torch.tensor([stream.ended for stream in streams]) & self._program.accepts(lengths)
        state = self._program.new_state(slots=len(streams) + 1)
        slots = torch.arange(1, len(streams) + 1)
        out = self._program.step(state, slots, Ragged(torch.cat(signals), lengths), final=final)
        return [self._read(part.numpy()) for part in out.split()]

    def _read(self, y: Float32[np.ndarray, "M C_out"]) -> Float32[np.ndarray, "M C_out"]:
        """As a reader of the predictions finds it."""
        return np.where(np.isfinite(y), y, np.float32(np.nan)) if self._nulls else y
