"""Which frames a network can take: those whose indices all have a row in the tables where they are looked up.

Looked at before a step begins, whatever the device: an index that a GPU finds out of range would end the context for everybody.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from service.errors import FrameRefused
from service.streaming.graph import Graph, Node
from service.streaming.operators.embedding import Embedding, frame_function
from service.streaming.ragged import Ragged

TRIES = 100


class Admission:
    """Computes all indices of a frame, and nothing else, as the program does."""

    def __init__(self, graph: Graph) -> None:
        self._channels = graph.channels
        self._lookups: list[tuple[Node, Embedding]] = [
            (node, node.operator) for node in graph.nodes if isinstance(node.operator, Embedding) and node.operator.checked
        ]
        needed = {id(maker) for node, _ in self._lookups for maker in frame_function(graph, node.inputs[0]) or ()}
        self._makers = [node for node in graph.nodes if id(node) in needed]

    @torch.no_grad()
    def check(self, chunks: Ragged, slots: Int64[Tensor, "B"], before: Int64[Tensor, "B"]) -> None:
        """Raises FrameRefused for the first index of `chunks` that has no row; `before` frames have been fed to each stream."""
        if not self._lookups or not len(chunks.values):
            return
        for node, table, numbers in self._looked_up(chunks.values):
            wrong = table.out_of_range(numbers)
            if not bool(wrong.any()):
                continue
            row, place = (int(found) for found in wrong.nonzero()[0])
            ends = chunks.lengths.cumsum(0)
            stream = int((ends <= row).sum())
            frame = int(before[stream] + row - ends[stream] + chunks.lengths[stream])
            held = ", ".join(f"{number:g}" for number in chunks.values[row, :16].tolist())
            raise FrameRefused(
                f"index {int(numbers[row, place])} has no row: {node.operator.name} in {node.where} has rows 0 … "
                f"{len(table.table) - 1}. It comes from frame {frame} of the stream in slot {int(slots[stream])}, "
                f"[{held}{', …' if self._channels > 16 else ''}]. Correct the data, or clamp the index behind its .long().",
                slot=int(slots[stream]),
                frame=frame,
            )

    @torch.no_grad()
    def admitted(self, frames: Float[Tensor, "N C"]) -> Bool[Tensor, "N"]:
        """Which frames can be taken."""
        good = torch.ones(len(frames), dtype=torch.bool, device=frames.device)
        for _, table, numbers in self._looked_up(frames):
            good &= ~table.out_of_range(numbers).any(1)
        return good

    def _looked_up(self, frames: Float[Tensor, "N C"]) -> list[tuple[Node, Embedding, Float[Tensor, "N c"]]]:
        rows = {0: frames}
        for node in self._makers:
            rows[node.output.index] = node.operator.compute([rows[view.value.index] for view in node.inputs], None)  # type: ignore[attr-defined]
        return [(node, table, rows[node.inputs[0].value.index]) for node, table in self._lookups]

    @property
    def harmless(self) -> Float[Tensor, "1 C"]:
        """A frame of zeros; where that cannot be taken, another one with the same number everywhere."""
        numbers = torch.cat([torch.arange(self._largest + 1), -torch.arange(1, self._largest + 1)]).float()
        frames = numbers.unsqueeze(1).expand(-1, self._channels)
        found = self.admitted(frames).nonzero()
        return frames[int(found[0]) if len(found) else 0].unsqueeze(0).clone()

    def drawn(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "N C"]:
        """Random frames that can be taken. Raises ValueError where none is found."""
        frames = torch.randn(count, self._channels, generator=generator)
        if not self._lookups:
            return frames
        for _ in range(TRIES):
            drawn = torch.randn(count, self._channels, generator=generator)
            index = torch.rand(drawn.shape, generator=generator) * self._largest
            drawn = torch.where(torch.rand(drawn.shape, generator=generator) < 0.5, drawn, index)
            frames = torch.where(self.admitted(frames).unsqueeze(1), frames, drawn)
            if bool(self.admitted(frames).all()):
                return frames
        raise ValueError(f"of {TRIES} random frames hardly one has indices with rows in all tables; look at how they are computed")

    def garbage(self, count: int) -> Float[Tensor, "N C"]:
        """Frames that are NaN wherever that can be taken."""
        frame = self.drawn(1, torch.Generator().manual_seed(0))
        spoiled = frame.repeat(self._channels, 1).fill_diagonal_(torch.nan)
        return torch.where(self.admitted(spoiled), torch.nan, frame).repeat(count, 1)

    @property
    def _largest(self) -> int:
        return max((len(table.table) for _, table in self._lookups), default=0)
