"""A last look at a conversion: does the program compute what the module does?

A module is traced with symbols in place of tensors, and can tell: by `type(x) == torch.Tensor`, by an exception that it catches.
Then another way through its code was traced than the one that runs. `service.streaming.verify` looks much closer; here are a few
streams, whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from service.errors import NotStreamable
from service.streaming.copying import eval_copy
from service.streaming.operator import Banded
from service.streaming.precision import Precision
from service.streaming.program import Program
from service.streaming.ragged import Ragged
from service.streaming.symbol import Layout

SEEDS = 3
SHORT = 3
"""So many of the shortest streams, where beginnings and ends meet."""
MOST = 1 << 14
"""Frames of a stream: a network whose first output needs more is taken at its word."""
MOST_PAIRS = 1 << 20
"""Pairs of frames, of which modules with masks over all of them have one number each."""
TOLERANCE = 1e-3
"""Relative to the largest output of a channel. Not a measure of precision, which `verify` takes."""
ROUNDING = 1e-6
"""Relative to the largest output of all channels: what may be left in one where large numbers cancel."""
FEW = 0.01
"""So many of a channel's outputs may differ by more: where numbers are rounded or ranked, the smallest difference makes a jump."""


def offline(module: nn.Module, frames: Float[Tensor, "T C"], layout: Layout) -> Float[Tensor, "M C_out"]:
    """The module's outputs for one whole stream."""
    across = layout is not Layout.BTC
    given = frames.clone()  # which a module may change
    with torch.no_grad():
        made = module((given.t() if across else given).unsqueeze(0))
    (made,) = made if isinstance(made, tuple | list) else (made,)
    rows = made.squeeze(0).float()
    return rows.t() if across else rows  # type: ignore[no-any-return]


def beyond(made: Tensor, wanted: Tensor, tolerance: float | Tensor) -> Bool[Tensor, "M C_out"]:
    """Where outputs of equal shape are apart. A NaN is as good as another one."""
    return ~(((made - wanted).abs() <= tolerance) | (made == wanted) | (made.isnan() & wanted.isnan()))


def largest(values: Tensor) -> float:
    """Of the finite ones."""
    return float(values[values.isfinite()].abs().max()) if bool(values.isfinite().any()) else 0.0


def check(program: Program, module: nn.Module, layout: Layout) -> None:
    """Raises NotStreamable where the module's outputs are others on every input that is tried."""
    module = eval_copy(module)
    for length in _lengths(program):
        wrong, told = set(range(program.out_channels)), ""
        for seed in range(SEEDS):
            found, told = _wrong(program, module, length, layout, seed)
            wrong &= found
            if not wrong:
                break
        else:
            raise NotStreamable(
                f"the network computes something else than its module ({told}). What was traced is not what runs: it may ask "
                "for a type, as in type(x) == torch.Tensor or isinstance(x.shape[-1], int), or depend on something outside. "
                "Write it so that it treats every tensor alike."
            )


def _lengths(program: Program) -> Iterator[int]:
    """The shortest streams with an output, and one that is longer than all that an output depends on."""
    most = math.isqrt(MOST_PAIRS) if any(isinstance(node.operator, Banded) for node in program.graph.nodes) else MOST
    longer = min(2 * program.history + 2, most)
    frames = torch.arange(1, min(most, longer + program.regular) + 64)
    legal = frames[program.accepts(frames) & (program.total(frames) > 0)]
    yield from legal[:SHORT].tolist()
    yield from legal[SHORT:][legal[SHORT:] >= longer][:1].tolist()


def _wrong(program: Program, module: nn.Module, length: int, layout: Layout, seed: int) -> tuple[set[int], str]:
    """The channels that differ, and what is different of the first; no channels where the program cannot be asked."""
    every = set(range(program.out_channels))
    try:
        frames = program.admission.drawn(length, torch.Generator().manual_seed(seed))
    except ValueError:  # its indices are in range for frames that nobody finds at random
        return set(), ""
    try:
        wanted = offline(module, frames, layout)
        if bool(wanted.isnan().float().mean() > 0.5) and bool(program.admission.admitted(frames.abs()).all()):
            frames = frames.abs()  # there may be a logarithm
            wanted = offline(module, frames, layout)
    except Exception as error:
        return every, f"of {length} frames, where the module raises {type(error).__name__}: {error}"
    state = program.new_state(2)
    made = program.step(state, torch.tensor([1]), Ragged(frames, torch.tensor([length])), torch.tensor([True])).values
    if made.shape != wanted.shape:
        return every, f"{list(made.shape)} outputs of {length} frames for {list(wanted.shape)}"
    sizes = torch.where(wanted.isfinite(), wanted, 0.0).abs().amax(0)
    wrong = beyond(made, wanted, torch.maximum(TOLERANCE * sizes, _rounding(program) * sizes.max()))
    channels = (wrong.sum(0) > FEW * len(wrong)).nonzero().flatten().tolist()
    if not channels:
        return set(), ""
    channel = channels[0]
    index = int(wrong[:, channel].nonzero()[0])
    values = f"{float(made[index, channel]):.6g} for {float(wanted[index, channel]):.6g}"
    return set(channels), f"output {index} of {length} frames is {values} in channel {channel}"


def _rounding(program: Program) -> float:
    return ROUNDING if program.precision is Precision.FLOAT32 else 2 * program.precision.tolerance
