"""The program: a network in its streaming form, and the arena of states that it steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from service.errors import StreamLengthError
from service.streaming import report, snapshot
from service.streaming.admission import Admission
from service.streaming.arena import ALIGNED, State, Store
from service.streaming.checks import check_chunks, check_slots
from service.streaming.dense import Trials
from service.streaming.device.accelerator import Accelerator
from service.streaming.device.levels import Cutter, levels_of
from service.streaming.device.relocation import relocated
from service.streaming.device.rounds import Rounds
from service.streaming.execution import from_ring, fused, prepare, retire, run
from service.streaming.fingerprint import fingerprint, state_fingerprint
from service.streaming.graph import Value
from service.streaming.native import library
from service.streaming.numerics import Numerics
from service.streaming.operator import Recurrence
from service.streaming.plan import Plan
from service.streaming.precision import Precision
from service.streaming.ragged import Ragged
from service.streaming.snapshot import Checkpoint
from service.streaming.tape import Tape, suits
from service.streaming.timeline import Count
from service.streaming.turn import Turn, WarmTurn, pieces

KEPT = 31 << 20  # bytes


class Program:
    """A network over ragged streams. Made by `convert`; holds no state of any stream."""

    def __init__(
        self,
        plan: Plan,
        numerics: Numerics,
        max_step: int,
        precision: Precision = Precision.FLOAT32,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.plan = plan
        self.graph = plan.graph
        self.numerics = numerics
        self.precision = precision
        self.max_step = max_step
        self.accelerator = accelerator
        self.device = torch.device("cpu") if accelerator is None else accelerator.device
        self.dtype = torch.float32
        self.own = library() if accelerator is None else None
        self.threads = torch.get_num_threads()
        assert self.graph.output is not None
        self.output = self.graph.output
        dense = numerics is Numerics.FAST and precision is Precision.FLOAT32 and accelerator is None
        self.steps = prepare(plan, dense)
        if accelerator is None:
            self.steps = fused(self.steps)
        else:
            self.steps = relocated(self.steps, accelerator, numerics)
        self._rebuilt = max(_frames(value, plan.tails[value.index]) for value in plan.sources)
        self._absorbs = accelerator is None and all(value is self.graph.input for value in plan.sources)
        self.taped = self.own is not None and suits(self.steps, plan)
        """Whether a round is one call, where it can be; else kernel by kernel, with the same bits."""
        self._trials = Trials() if any(step.dense for step in self.steps) else None
        self.cutter = None if accelerator is None else Cutter(plan, levels_of(plan, max_step, numerics is Numerics.EXACT))
        self.admission = Admission(self.graph)
        self._accepts = self.graph.accepts()
        self.fingerprint = fingerprint(self)
        self.state_fingerprint = state_fingerprint(self)

    # What the program is

    @property
    def channels(self) -> int:
        return self.graph.channels

    @property
    def out_channels(self) -> int:
        return self.output.channels

    @property
    def history(self) -> int:
        """How many of the last input frames an output that is not out yet can still read."""
        return self.plan.tails[0]

    @property
    def receptive_field(self) -> int | None:
        """How many input frames one output depends on; None when a recurrence remembers all of them."""
        return report.receptive_field(self.graph)

    @property
    def delay(self) -> int:
        """How many input frames after an output's own frame it comes out, at most."""
        return report.delay(self.graph)

    @property
    def decimation(self) -> float:
        """Input frames per output."""
        ready = self.output.timeline.ready
        return ready.period / ready.gain

    @property
    def work(self) -> float:
        """Multiply-adds, or what costs as much, per input frame."""
        return report.work(self.graph)

    @property
    def bytes_per_slot(self) -> int:
        rings = sum(depth * self.graph.values[index].channels for index, depth in self.plan.depth.items())
        hidden = sum(step.node.operator.initial.numel() for step in self.steps if isinstance(step.node.operator, Recurrence))
        return (rings + hidden) * self.dtype.itemsize + torch.int64.itemsize

    @property
    def regular(self) -> int:
        """From how many frames on each further period of the stream is like the one before, also for what the module asks of
        lengths."""
        return max(count.settled for count in (self._accepts, self.output.timeline.ready, self.output.timeline.total))

    def describe(self) -> str:
        """The graph as a table."""
        return report.describe(self.plan)

    @overload
    def ready(self, n: int) -> int: ...
    @overload
    def ready(self, n: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]: ...
    def ready(self, n: int | Tensor) -> int | Tensor:
        """How many outputs `n` frames make ready, whatever follows."""
        return _evaluate(self.output.timeline.ready, n)

    @overload
    def total(self, n: int) -> int: ...
    @overload
    def total(self, n: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]: ...
    def total(self, n: int | Tensor) -> int | Tensor:
        """How many outputs a stream of `n` frames has in all."""
        return _evaluate(self.output.timeline.total, n)

    @overload
    def accepts(self, n: int) -> bool: ...
    @overload
    def accepts(self, n: Int64[Tensor, "B"]) -> Bool[Tensor, "B"]: ...
    def accepts(self, n: int | Tensor) -> bool | Tensor:
        """Whether a stream may end after `n` frames: the offline module does not raise at that length."""
        verdict = _evaluate(self._accepts, n)
        return verdict != 0

    # State

    def new_state(self, slots: int, device: str | torch.device | None = None) -> State:
        """An arena for streams in slots 1 … slots - 1 on the program's device; slot 0 is the dummy slot.

        Raises ValueError for a device other than the program's, and when the number of threads is no longer the one that `exact`
        was established for.
        """
        if device is not None and torch.device(device) != self.device:
            raise ValueError(f"device is {str(device)!r}; this program computes on {str(self.device)!r}")
        if self.numerics is Numerics.EXACT and torch.get_num_threads() != self.threads:
            raise ValueError(
                f"torch runs with {torch.get_num_threads()} threads, and with {self.threads} when the program was converted; "
                "other threads give other bits. Call torch.set_num_threads before convert."
            )
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        _keep_memory()
        aligned = 1 if self.accelerator is None else ALIGNED
        stores = {
            index: Store(slots, depth, value.channels, self._staged(value), self.plan.fills, like, aligned)
            for index, depth in self.plan.depth.items()
            for value in [self.graph.values[index]]
        }
        hidden = {
            step.node.output.index: step.node.operator.initial.to(like.device).repeat(slots, 1)
            for step in self.steps
            if isinstance(step.node.operator, Recurrence)
        }
        rounds = None
        if self.accelerator is not None and self.cutter is not None:
            rounds = Rounds(self.graph, self.steps, self.cutter, self.accelerator, torch.empty(0, self.channels))
        return State(self.fingerprint, slots, like, stores, hidden, rounds)

    def _staged(self, value: Value) -> int:
        """How many new rows of a value there is room for; on the CPU that may grow."""
        return value.timeline.most_per(self.max_step) if self.cutter is None else self.cutter.levels[-1].of(value)

    def resize(self, state: State, slots: int) -> None:
        """Grows the arena in place to `slots` rows; every stream keeps its state."""
        if slots < state.slots:
            raise ValueError(f"the state has {state.slots} slots; it can grow but not shrink to {slots}")
        fresh = self.new_state(slots - state.slots)
        hidden = {index: torch.cat([state.hidden[index], rows]) for index, rows in fresh.hidden.items()}
        try:
            for store in state.stores.values():
                store.resize(slots)  # where one finds no memory, those before it just have room for more
        finally:
            if state.rounds is not None:
                state.rounds.moved()
        state.frames = torch.cat([state.frames, fresh.frames])
        state.behind = torch.cat([state.behind, fresh.behind])
        state.hidden.update(hidden)
        state.slots = slots

    def reset(self, state: State, slots: Int64[Tensor, "B"]) -> None:
        """Forgets the streams in `slots`; the next frames there begin new ones."""
        check_slots(state, slots, self.fingerprint)
        self._forget(state, slots)

    def positions(self, state: State, slots: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
        """How many frames each stream has fed so far."""
        check_slots(state, slots, self.fingerprint)
        return state.frames.index_select(0, slots)

    def freeze(self, state: State, slots: Int64[Tensor, "B"]) -> list[bytes]:
        """One snapshot per slot: all that the stream's future depends on. The slots stay as they are."""
        check_slots(state, slots, self.fingerprint)
        return snapshot.freeze(self.plan, self.state_fingerprint, state, slots)

    def thaw(self, state: State, slots: Int64[Tensor, "B"], data: Sequence[bytes]) -> None:
        """Puts snapshots into `slots`; their streams go on as if they had never left.

        Raises SnapshotMismatch, before anything changes, when one is damaged or belongs to a program with another state.
        """
        check_slots(state, slots, self.fingerprint)
        if len(data) != len(slots):
            raise ValueError(f"data has {len(data)} snapshots, slots has {len(slots)}")
        snapshot.thaw(self.plan, self.state_fingerprint, state, slots, data)
        state.fall_behind(slots)

    def check(self, blob: bytes) -> None:
        """Raises SnapshotMismatch where `thaw` would."""
        snapshot.check(0, blob, self.state_fingerprint)

    def checkpoint(self, state: State, slots: Int64[Tensor, "B"]) -> Checkpoint:
        """A picture in memory of the streams in `slots`, for `rollback`."""
        check_slots(state, slots, self.fingerprint)
        return snapshot.take(self.plan, state, slots)

    def rollback(self, state: State, checkpoint: Checkpoint) -> None:
        """Puts the checkpoint's streams back to where they were; everything fed to them since is forgotten."""
        snapshot.put_back(state, checkpoint)
        state.fall_behind(checkpoint.slots)

    # Stepping

    @torch.no_grad()
    def step(self, state: State, slots: Int64[Tensor, "B"], chunks: Ragged, final: Bool[Tensor, "B"] | None = None) -> Ragged:
        """Feeds each stream its chunk and returns the outputs that thereby become ready.

        `slots` are distinct and never 0; `chunks.values [N, C]` with `chunks.lengths [B]`, zeros allowed. Streams in `final` end
        now: right padding is applied, what is left comes out, the slot is reset. Returns values `[M, C_out]`, lengths and the
        absolute index of each stream's first row. Raises ValueError for arguments that do not fit, StreamLengthError for streams
        that end at a length at which the offline module raises and FrameRefused for an index without a row, all before any state
        changes.
        """
        whole = self._checked(state, slots, chunks, final)
        self._catch_up(state, slots)
        span = whole.span(self.output)
        if state.rounds is not None:
            values = torch.cat([chunks.values.new_empty(0, self.out_channels), *state.rounds.step(state, whole, chunks.values)])
            self._advance(state, whole)
        elif len(chunks.values) <= self.max_step:
            values = self._round(state, whole, chunks.values)
        else:
            rounds = pieces(whole, chunks.lengths, self.max_step)
            values = torch.cat([self._round(state, turn, chunks.values[rows]) for turn, rows in rounds])
        return Ragged(values, span.lengths, span.start)

    @torch.no_grad()
    def absorb(self, state: State, slots: Int64[Tensor, "B"], chunks: Ragged, final: Bool[Tensor, "B"] | None = None) -> None:
        """What `step` does to the state, where nobody wants the outputs; raises what it raises.

        Where a stream's future depends on its last frames alone, nothing is computed but what a later `step` of the stream needs,
        and then once, however much was absorbed before.
        """
        if not self._absorbs:
            self.step(state, slots, chunks, final)
            return
        whole = self._checked(state, slots, chunks, final)
        store = state.stores.get(self.graph.input.index)
        if store is not None and store.depth:
            # The caller's memory may lie anyhow, and what is retired is contiguous and aligned.
            retire(store, whole, whole.span(self.graph.input), chunks.values.clone(memory_format=torch.contiguous_format))
        state.fall_behind(slots)
        self._advance(state, whole)

    def _checked(self, state: State, slots: Tensor, chunks: Ragged, final: Tensor | None) -> Turn:
        """What is to be done. Raises as `step` does, before any state changes."""
        check_slots(state, slots, self.fingerprint)
        check_chunks(state, slots, chunks, final, self.channels, self.dtype)
        before = state.frames.index_select(0, slots)
        after = before + chunks.lengths
        if final is not None:
            if not bool(final.any()):
                final = None
            else:
                self._check_ends(slots, after, final)
        self.admission.check(chunks, slots, before)
        return Turn(slots.contiguous(), before, after, final, self.own)

    def _check_ends(self, slots: Tensor, after: Tensor, final: Tensor) -> None:
        refused = final & ~self.accepts(after)
        if bool(refused.any()):
            rows = refused.nonzero().flatten()
            lengths = sorted(set(after[rows].tolist()))
            raise StreamLengthError(
                f"{len(rows)} streams end at lengths at which the module raises: {lengths[:5]} frames. "
                "Drop them, or feed them on to a length that program.accepts.",
                slots=tuple(slots[rows].tolist()),
            )

    def _round(self, state: State, turn: Turn, values: Float[Tensor, "N C"]) -> Float[Tensor, "M C_out"]:
        store = state.stores.get(0)
        rows = {0: values if store is None else store.stage(len(values)).copy_(values)}
        trial = None if self._trials is None else self._trials.of(turn, turn.span(self.graph.input))
        turn.dense = trial is not None and trial.dense
        begun = time.perf_counter()
        if self.taped and turn.final is None and not turn.dense:
            rows[self.output.index] = self._tape(state).run(turn)
        else:
            run(self.steps, state, turn, rows)
        if trial is not None and not trial.settled:
            trial.took(time.perf_counter() - begun)
        self._advance(state, turn)
        output = rows[self.output.index]
        # Not a view of memory that the next step overwrites, nor of the caller's.
        lent = output.untyped_storage().data_ptr() == values.untyped_storage().data_ptr() or state.holds(output)
        return output.clone() if lent else output

    def _tape(self, state: State) -> Tape:
        if state.tape is None:
            assert self.own is not None
            state.tape = Tape(self.own, self.steps, self.output, state)
        return state.tape

    def _advance(self, state: State, turn: Turn) -> None:
        state.frames.index_copy_(0, turn.slots, turn.after)
        if turn.final is not None:
            self._forget(state, turn.slots[turn.final])

    def _forget(self, state: State, slots: Tensor) -> None:
        state.frames.index_fill_(0, slots, 0)
        state.caught_up(slots)
        if not state.hidden:
            return
        (at,) = state.send(slots)
        for step in self.steps:
            operator = step.node.operator
            if isinstance(operator, Recurrence):
                state.hidden[step.node.output.index].index_copy_(0, at, operator.initial.to(state.device).expand(len(slots), -1))

    def _catch_up(self, state: State, slots: Int64[Tensor, "B"]) -> None:
        """Recomputes every ring of those of `slots` that are behind, from the sources' tails, as many streams at a time as have
        `max_step` frames to read."""
        behind = state.those_behind(slots)
        if behind is None:
            return
        frames = state.frames.index_select(0, behind)
        if state.rounds is not None:
            state.rounds.rebuild(state, WarmTurn(behind, frames, self.plan.warm))
        else:
            read = frames.clamp(max=self._rebuilt).cumsum(0)
            _, counts = torch.unique_consecutive(read // max(1, self.max_step - self._rebuilt), return_counts=True)
            for part, fed in zip(torch.split(behind, counts.tolist()), torch.split(frames, counts.tolist()), strict=True):
                self._rebuild(state, WarmTurn(part, fed, self.plan.warm, self.own))
        state.caught_up(behind)

    def _rebuild(self, state: State, turn: WarmTurn) -> None:
        rows = {0: torch.empty(0, self.channels, dtype=self.dtype, device=state.device)}
        span = turn.span(self.graph.input)
        if span.rows:
            store = state.stores[0]
            rows[0] = store.stage(span.rows).copy_(from_ring(store, turn, span))
        run(self.steps, state, turn, rows)


def _frames(value: Value, elements: int) -> int:
    """How many input frames make so many elements, about."""
    return -(-elements * value.timeline.ready.period // value.timeline.ready.gain)


def _evaluate(count: Count, n: int | Tensor) -> int | Tensor:
    return count(n) if isinstance(n, Tensor) else int(count(torch.tensor([n])))


def _keep_memory() -> None:
    """Has the C library keep what a step frees for the next one; by itself glibc gives back large pieces and faults them in again.

    It learns from the largest piece that was ever freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Nothing is touched.
    """
    torch.empty(KEPT, dtype=torch.uint8)
