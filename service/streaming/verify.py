"""The law, checked: streamed in random ragged chunks with company, a program's outputs are the module's on the whole stream."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from service.streaming.arena import State
from service.streaming.copying import eval_copy
from service.streaming.numerics import Numerics
from service.streaming.program import Program
from service.streaming.ragged import Ragged
from service.streaming.selfcheck import beyond, largest, offline
from service.streaming.symbol import Layout

MOST = 20_000
"""Frames of a stream, where nobody says how many."""


@dataclass(frozen=True)
class Verified:
    """What was compared; `bit_equal` says whether other chunks and company gave the same bits (`exact` promises it). A NaN is as
    good as another one; 0 and -0 differ."""

    streams: int
    outputs: int
    max_abs_difference: float
    bit_equal: bool


@dataclass
class _Stream:
    """One stream on its way: what is left of its samples, where it lives, what has come out."""

    number: int
    samples: Float[Tensor, "T C"]
    slot: int
    fed: int = 0
    ended: bool = False
    outputs: list[Tensor] = field(default_factory=list)


def verify(
    program: Program,
    module: nn.Module,
    *,
    lengths: Sequence[int] | None = None,
    layout: str = "BCT",
    seed: int = 0,
) -> Verified:
    """Streams random samples of the given lengths (those the program accepts, chosen around its history when not given).

    Every stream is fed twice, in different chunks, slots and company; in between it is frozen, thawed elsewhere, checkpointed and
    rolled back, and some chunks are absorbed; unused memory and other slots hold NaN. Raises AssertionError with the first
    difference: stream, index, values.
    """
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    copied = eval_copy(module)
    if lengths is None:
        span = program.history + 2
        # The last one is beyond all that the module asks of a length.
        beyond = min(max(2 * span, program.regular), MOST)
        lengths = [1, 2, 3, *(chance.randint(1, 2 * span) for _ in range(3)), beyond + chance.randint(0, 20)]
    lengths = [length for length in lengths if length and program.accepts(length)]
    samples = [program.admission.drawn(length, generator) for length in lengths]
    expected = [offline(copied, frames, Layout(layout)) for frames in samples]
    streamed = _stream(program, samples, chance)
    difference = 0.0
    tolerance = program.precision.tolerance * max((largest(wanted) for wanted in expected), default=0.0)
    for number, (made, wanted) in enumerate(zip(streamed, expected, strict=True)):
        difference = max(difference, _compare(number, made, wanted, tolerance, "the module offline"))
    again = _stream(program, samples, chance)
    alone = [_alone(program, frames) for frames in samples]
    bit_equal = True
    for other in (again, alone):
        for number, (made, wanted) in enumerate(zip(streamed, other, strict=True)):
            if program.numerics is Numerics.EXACT:
                _compare(number, made, wanted, 0.0, "itself in other chunks and company")
            bit_equal = bit_equal and same_bits(made, wanted)
    return Verified(len(lengths), sum(len(wanted) for wanted in expected), difference, bit_equal)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether float32 tensors are equal to the last bit. A NaN is as good as another one; 0 and -0 differ."""
    if one.shape != other.shape:
        return False
    equal = one.view(torch.int32) == other.view(torch.int32)
    return bool((equal | (one.isnan() & other.isnan())).all())


def _alone(program: Program, frames: Float[Tensor, "T C"]) -> Float[Tensor, "M C_out"]:
    state = _poisoned(program, 2)
    return program.step(state, torch.tensor([1]), Ragged(frames, torch.tensor([len(frames)])), torch.tensor([True])).values


def _poisoned(program: Program, slots: int) -> State:
    """A fresh state whose every row that nobody has written yet is NaN."""
    state = program.new_state(slots)
    for store in state.stores.values():
        store.rows[store.stage_at :] = float("nan")
    return state


def _stream(program: Program, samples: Sequence[Float[Tensor, "T C"]], chance: random.Random) -> list[Float[Tensor, "M C_out"]]:
    slots = list(range(1, 2 * len(samples) + 3))
    chance.shuffle(slots)
    neighbour = slots.pop()
    streams = [_Stream(number, frames, slots.pop()) for number, frames in enumerate(samples)]
    state = _poisoned(program, 2 * len(samples) + 3)
    while running := [stream for stream in streams if not stream.ended]:
        batch = chance.sample(running, chance.randint(1, len(running)))
        chunks = [_next_chunk(stream, chance) for stream in batch]
        if chance.random() < 0.3:
            _feed_and_take_back(program, state, batch, chance)
        with_garbage = chance.random() < 0.5
        _step(program, state, batch, chunks, neighbour if with_garbage else None, chance)
        if chance.random() < 0.2:
            _move(program, state, [stream for stream in batch if not stream.ended], slots, chance)
    return [torch.cat(stream.outputs) for stream in streams]


def _next_chunk(stream: _Stream, chance: random.Random) -> int:
    left = len(stream.samples) - stream.fed
    return min(left, chance.choice([0, 1, 1, 2, 3, 7, chance.randint(0, left), left]))


def _step(
    program: Program, state: State, batch: Sequence[_Stream], chunks: Sequence[int], neighbour: int | None, chance: random.Random
) -> None:
    parts = [stream.samples[stream.fed : stream.fed + chunk] for stream, chunk in zip(batch, chunks, strict=True)]
    slots = [stream.slot for stream in batch]
    final = []
    for stream, chunk in zip(batch, chunks, strict=True):
        stream.fed += chunk
        stream.ended = stream.fed == len(stream.samples) and chance.random() < 0.8
        final.append(stream.ended)
    if neighbour is not None:
        place = chance.randint(0, len(parts))
        parts.insert(place, program.admission.garbage(chance.randint(1, 5)))
        slots.insert(place, neighbour)
        final.insert(place, False)
    into, packed = torch.tensor(slots), Ragged(torch.cat(parts), torch.tensor([len(part) for part in parts]))
    ends = torch.tensor(final) if any(final) else None
    picture = program.checkpoint(state, into) if chance.random() < 0.3 else None
    made = program.step(state, into, packed, ends)
    if picture is not None:
        program.rollback(state, picture)
        if chance.random() < 0.5:
            # Nothing is fed, but every ring is true again, so that absorbing makes it untrue.
            program.step(state, into, Ragged(packed.values[:0], torch.zeros_like(into)))
        program.absorb(state, into, packed, ends)
    assert made.start is not None
    outputs = dict(zip(slots, zip(made.split(), made.start.tolist(), strict=True), strict=True))
    for stream in batch:
        rows, start = outputs[stream.slot]
        out = sum(len(earlier) for earlier in stream.outputs)
        ready = program.total(stream.fed) if stream.ended else program.ready(stream.fed)
        if start != out or out + len(rows) != ready:
            raise AssertionError(
                f"stream {stream.number}: after {stream.fed} frames outputs {start} … {start + len(rows) - 1} came, "
                f"{out} … {ready - 1} were due"
            )
        stream.outputs.append(rows)


def _feed_and_take_back(program: Program, state: State, batch: Sequence[_Stream], chance: random.Random) -> None:
    slots = torch.tensor([stream.slot for stream in batch])
    picture = program.checkpoint(state, slots)
    lengths = torch.tensor([chance.randint(0, 2 * program.history + 2) for _ in batch])
    program.step(state, slots, Ragged(program.admission.garbage(int(lengths.sum())), lengths))
    program.rollback(state, picture)


def _move(program: Program, state: State, streams: Sequence[_Stream], free: list[int], chance: random.Random) -> None:
    """Freezes streams and thaws them in other slots, over whatever is there."""
    if not streams:
        return
    snapshots = program.freeze(state, torch.tensor([stream.slot for stream in streams]))
    for stream in streams:
        free.append(stream.slot)
        program.reset(state, torch.tensor([stream.slot]))
    for store in state.stores.values():
        if store.depth:
            store.per_slot[torch.tensor([stream.slot for stream in streams])] = float("nan")
    chance.shuffle(free)
    for stream in streams:
        stream.slot = free.pop()
    program.thaw(state, torch.tensor([stream.slot for stream in streams]), snapshots)


def _compare(number: int, made: Tensor, wanted: Tensor, tolerance: float, against: str) -> float:
    if made.shape != wanted.shape:
        raise AssertionError(f"stream {number}: {list(made.shape)} outputs streamed, {list(wanted.shape)} by {against}")
    wrong = beyond(made, wanted, tolerance)
    if bool(wrong.any()):
        index, channel = (int(place) for place in wrong.nonzero()[0])
        raise AssertionError(
            f"stream {number}, output {index}, channel {channel}: streamed {float(made[index, channel])!r}, "
            f"{against} {float(wanted[index, channel])!r} (tolerance {tolerance:.3g}; {int(wrong.sum())} of {made.numel()} differ)"
        )
    return largest((made - wanted)[made != wanted])
