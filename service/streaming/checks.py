"""What a caller may pass: every violation is a ValueError that says which argument and which row."""

from __future__ import annotations

import torch
from torch import Tensor

from service.streaming.arena import State
from service.streaming.ragged import Ragged


def check_slots(state: State, slots: Tensor, program: str) -> None:
    """`slots` are distinct rows of an arena that the program with this fingerprint made, never the dummy slot."""
    if state.program != program:
        raise ValueError(f"state belongs to program {state.program}; this is program {program}")
    _integers("slots", slots, state)
    if not slots.shape[0]:
        return
    ascending = bool((slots[1:] > slots[:-1]).all())
    least, most = (slots[0], slots[-1]) if ascending else torch.aminmax(slots)
    if int(least) < 1 or int(most) >= state.slots:
        row = int(((slots < 1) | (slots >= state.slots)).nonzero()[0])
        raise ValueError(f"slots[{row}] is {int(slots[row])}; slots of this state are 1 … {state.slots - 1} (0 is the dummy slot)")
    if ascending:
        return
    ordered = slots.sort()
    twice = (ordered.values[1:] == ordered.values[:-1]).nonzero()
    if len(twice):
        row = int(ordered.indices[int(twice[0]) + 1])
        raise ValueError(f"slots[{row}] repeats slot {int(slots[row])}; a slot may stand only once in a batch")


def check_chunks(state: State, slots: Tensor, chunks: Ragged, final: Tensor | None, channels: int, dtype: torch.dtype) -> None:
    """`chunks` are rows of `channels` numbers, as many as `lengths` say, for as many streams as there are slots."""
    values, lengths = chunks.values, chunks.lengths
    if values.ndim != 2 or values.shape[1] != channels:
        raise ValueError(f"values have shape {list(values.shape)}; the program takes [N, {channels}]")
    if values.dtype != dtype:
        raise ValueError(f"values are {values.dtype}; the program takes {dtype}")
    if values.device != state.frames.device:
        raise ValueError(f"values are on {values.device}; give them on {state.frames.device}, wherever the program computes")
    _integers("lengths", lengths, state)
    if len(lengths) != len(slots):
        raise ValueError(f"lengths has {len(lengths)} rows, slots has {len(slots)}")
    if lengths.shape[0] and int(lengths.min()) < 0:
        row = int((lengths < 0).nonzero()[0])
        raise ValueError(f"lengths[{row}] is {int(lengths[row])}; lengths are not negative")
    if int(lengths.sum()) != values.shape[0]:
        raise ValueError(f"lengths sum to {int(lengths.sum())}; values has {len(values)} rows")
    host = state.frames.device
    if final is not None and (final.dtype != torch.bool or final.shape != slots.shape or final.device != host):
        raise ValueError(
            f"final is {final.dtype} {list(final.shape)} on {final.device}; it must be bool {list(slots.shape)} on {host}"
        )


def _integers(name: str, tensor: Tensor, state: State) -> None:
    if tensor.dtype != torch.int64 or tensor.ndim != 1:
        raise ValueError(f"{name} is {tensor.dtype} with shape {list(tensor.shape)}; it must be int64 with one dimension")
    if tensor.device != state.frames.device:
        raise ValueError(f"{name} is on {tensor.device}; give it on {state.frames.device}, wherever the program computes")
