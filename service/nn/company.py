"""How many windows may go through a module at once, such that each is treated as if it were alone.

Libraries pick kernels by the size of a batch, and treat what is left over at its end differently, so the same window may have other
bits in a batch of another size or in another place. A result can hide that: it is rounded, or it agrees by chance. So what is
compared is not the results alone but every intermediate result, by digests that do not depend on order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from service.errors import NotStreamable

Call = Callable[[Float[Tensor, "n size C"]], Float[Tensor, "n P K"]]

CLOSE = 1e-5
"""How far, relative to the largest result, a window's result in other company may be from its own: the law's tolerance."""
ALONE = "Normalise and attend within each window, or let every window be a batch of its own (batch: 1)."
PREFERRED = (16, 4, 1)
"""Which size to take where no two of them agree: a large one costs a single window dear, a small one a thousand."""
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Fit:
    """The sizes of batches to use, ascending, and the results for the windows that were tried."""

    sizes: tuple[int, ...]
    results: Float[Tensor, "N P K"]


@dataclass(frozen=True)
class Run:
    """Windows, gone through a module some at a time: results, and the digests of each operation's results in every call."""

    results: Float[Tensor, "N P K"]
    digests: tuple[tuple[int, ...], ...]

    def same(self, other: Run) -> bool:
        """Whether the same numbers occurred everywhere, in any order; what does not depend on the windows counts once."""
        if not same_bits(self.results, other.results) or len(self.digests) != len(other.digests):
            return False
        pairs = zip(self.digests, other.digests, strict=True)
        return all(_total(mine) == _total(theirs) or set(mine) == set(theirs) for mine, theirs in pairs)


class Witness(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a digest of what every operation of one call makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.digests: list[int] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler first, for seconds; nothing is compiled here.
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        # Memory that is not written yet holds anything; of several results the later ones may be such memory too.
        if not function.is_view and "empty" not in function.name():
            first = result[0] if isinstance(result, tuple | list) and result else result
            if isinstance(first, Tensor):
                self.digests.append(_digest(first))
        return result


@torch.no_grad()
def fit(call: Call, windows: Float[Tensor, "N size C"], sizes: Sequence[int], exact: bool) -> Fit:
    """Which of `sizes` (ascending; they divide N) to use.

    Under `exact` all of them give a window the same bits, in every place of a batch. Raises NotStreamable when the module does not
    take its windows, makes something else of them in a second call, mixes those of a batch, or keeps bits at no size.
    """
    able = _able(call, windows, sizes)
    most = windows[: able[-1]]
    results = call(most)
    if not same_bits(results, call(most)):
        raise NotStreamable("the module gives other results for the same windows: it draws random numbers, or remembers calls")
    for size in able:
        _check_company(call, windows[:size], exact)
    if not exact:
        return Fit(able, results)
    turned = windows.roll(1, 0)
    runs = {size: _run(call, windows, size) for size in able}
    steady = [size for size, run in runs.items() if size == 1 or run.same(_turned_back(_run(call, turned, size)))]
    agreeing = [tuple(other for other in steady if runs[other].same(runs[size])) for size in steady]
    if not agreeing:
        raise NotStreamable(
            f"a window's result has other bits in other places of a batch of {' or '.join(map(str, able))} on this machine. "
            "Let every window be a batch of its own (batch: 1), or convert with numerics='fast'."
        )
    best = max(agreeing, key=lambda group: (len(group), [preferred in group for preferred in PREFERRED]))
    return Fit(best, runs[best[0]].results)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of float32 hold the same numbers, any NaN for any other."""
    return a.shape == b.shape and bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


def _able(call: Call, windows: Float[Tensor, "N size C"], sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes that the module takes; it need not take single windows."""
    able = list(sizes)
    for size in sizes:
        try:
            call(windows[:size])
        except NotStreamable:
            raise
        except Exception as error:  # whatever the user's module does with a batch of this size
            if size == 1 and len(sizes) > 1:
                able.remove(size)
                continue
            reason = (str(error).strip() or "no message").splitlines()[-1]
            taken = f"; it takes {able[0]}" if size > able[0] else ""
            raise NotStreamable(
                f"the module does not take {list(windows[:size].shape)} windows, [N, size, C] in its layout: "
                f"{type(error).__name__}: {reason}{taken}. If it takes another number of windows at a time, give that as batch."
            ) from error
    return tuple(able)


def _check_company(call: Call, windows: Float[Tensor, "n size C"], exact: bool) -> None:
    """Raises NotStreamable when a window's result in a batch depends on the others, or on copies that fill up the batch."""
    own = call(windows)
    for company, rows in _companies(windows):
        made = call(company)
        kept = rows >= 0
        if made.shape != own.shape:
            raise NotStreamable(f"the module gives {list(own.shape)} for some windows and {list(made.shape)} for others as many")
        if not (same_bits(made[kept], own[rows[kept]]) if exact else _close(made[kept], own[rows[kept]])):
            raise NotStreamable(f"the module mixes the windows of a batch: a window's result depends on the others. {ALONE}")


def _companies(windows: Float[Tensor, "n size C"]) -> Iterator[tuple[Float[Tensor, "n size C"], Tensor]]:
    """Batches, and which of the windows each of their rows is, -1 for none."""
    count = len(windows)
    order = torch.arange(count)
    if count == 1:
        return
    for first in (0, 1):
        rows = torch.where(order % 2 == first, order, -1)
        for others in (torch.full_like(windows, torch.nan), 1e4 * windows.flip(0)):
            yield torch.where((rows >= 0).view(-1, 1, 1), windows, others), rows
    for due in {1, count // 2}:
        rows = order.clamp(max=due - 1)
        yield windows[rows], rows


def _close(a: Float[Tensor, "n P K"], b: Float[Tensor, "n P K"]) -> bool:
    finite = b[b.isfinite()]
    tolerance = CLOSE * float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True).all())


def _run(call: Call, windows: Float[Tensor, "N size C"], size: int) -> Run:
    results, digests = [], []
    for batch in torch.split(windows, size):
        with Witness() as witness:
            results.append(call(batch))
        digests.append(witness.digests)
    alike = len({len(of_call) for of_call in digests}) == 1
    # Calls that do not do the same operations cannot be compared step by step; their results still are.
    return Run(torch.cat(results), tuple(zip(*digests, strict=True)) if alike else ())


def _turned_back(run: Run) -> Run:
    return Run(run.results.roll(-1, 0), run.digests)


def _digest(result: Tensor) -> int:
    """The same for the same numbers in any order and shape; for other numbers very likely another."""
    plain = torch.view_as_real(result.resolve_conj()) if result.is_complex() else result
    bits = plain.contiguous().view(-1).view(BITS[plain.element_size()]).to(torch.int64)
    return int(torch.dot(bits, bits * 0x9E3779B1 + 0x85EBCA77))


def _total(digests: Sequence[int]) -> int:
    return sum(digests) % (1 << 64)
