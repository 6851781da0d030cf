"""Rounds on a device: tables loaded, launches replayed, outputs fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from service.streaming.arena import State
from service.streaming.device.accelerator import Accelerator
from service.streaming.device.launches import Launches
from service.streaming.device.levels import Cutter, Level
from service.streaming.device.staging import Staging
from service.streaming.device.tables import Tables
from service.streaming.execution import Step
from service.streaming.graph import Graph
from service.streaming.turn import Turn, WarmTurn


class Round:
    """One size and kind of round of one arena; its launches are captured, where the accelerator does that."""

    def __init__(
        self, graph: Graph, steps: Sequence[Step], state: State, level: Level, accelerator: Accelerator, warm: bool
    ) -> None:
        assert graph.output is not None
        self.output = graph.output
        self.tables = Tables(accelerator)
        self.launches = Launches(graph, steps, state, level, self.tables, warm)
        # Padding alone, so that nothing but the dummy slot changes: once to learn which tables there are, once to capture.
        for run, _ in self.launches.parts:
            run()
        self.tables.settle()
        captured = accelerator.graphs and not warm
        self.runs: list[Callable[[], None]] = [
            accelerator.capture(run) if captured and static else run for run, static in self.launches.parts
        ]

    def __call__(self, turn: Turn, values: Float[Tensor, "N C"]) -> Float[Tensor, "M C_out"]:
        """The output rows, which stay where they are until the next round."""
        self.tables.load(turn, values)
        self.launches.turn = turn
        for run in self.runs:
            run()
        self.launches.turn = None
        return self.launches.made[self.output.index][: turn.span(self.output).rows]


class Rounds:
    """What an arena needs to step on a device: its rounds by size and kind, made when they are needed first, and its staging."""

    def __init__(
        self, graph: Graph, steps: Sequence[Step], cutter: Cutter, accelerator: Accelerator, nothing: Float[Tensor, "0 C"]
    ) -> None:
        self.graph = graph
        self.steps = steps
        self.cutter = cutter
        self.accelerator = accelerator
        self.staging = Staging(accelerator)
        self._nothing = nothing
        self._rounds: dict[tuple[int, bool], Round] = {}

    def step(self, state: State, turn: Turn, values: Float[Tensor, "N C"]) -> list[Float[Tensor, "M C_out"]]:
        """The output rows of each round, on the host."""
        made = []
        for piece in self.cutter.cut(turn):
            rows = self._round(state, piece.level, False)(piece.turn, values[piece.frames])
            made.extend(self.staging.fetch(rows))
        return made

    def rebuild(self, state: State, turn: WarmTurn) -> None:
        for piece in self.cutter.cut(turn):
            self._round(state, piece.level, True)(piece.turn, self._nothing)

    def _round(self, state: State, level: int, warm: bool) -> Round:
        found = self._rounds.get((level, warm))
        if found is None:
            found = self._rounds[level, warm] = Round(
                self.graph, self.steps, state, self.cutter.levels[level], self.accelerator, warm
            )
        return found

    def moved(self) -> None:
        """The arena has other memory now; what was captured is void."""
        self._rounds.clear()
