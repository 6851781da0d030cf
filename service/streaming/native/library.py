"""The compiled kernels (`rows.c`), called with the addresses of tensors; torch's own threads share the rows."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import structlog
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from service.streaming.native.contexts import Addressing, Call, Elements, Product, Retirement

NOT_SHARED = "torch could not share a kernel's work between threads"

log = structlog.get_logger("penstock.native")

VARIANTS = {("x86_64", "AVX2"): "x86_64_v3", ("x86_64", "AVX512"): "x86_64_v4"}
"""By machine and by what torch uses of its processor."""
SHARE = 1 << 17
"""Multiply-adds from which a part is worth a thread's while."""
ADDRESSED = 1 << 14
"""Addresses from which computing a part of them is."""
COPIED = 1 << 16
"""Bytes from which copying a part of them is."""


@dataclass(frozen=True)
class Readings:
    """R readings of windows of k elements. Of each: what leads from a window's origin to its elements, the depth of its ring and
    the row at which the rings begin, the lowest element that is data, and the row of its fill, or -1."""

    offsets: Int64[Tensor, "R k"]
    depth: Int64[Tensor, "R"]
    ring_at: Int64[Tensor, "R"]
    low: Int64[Tensor, "R"]
    fill: Int64[Tensor, "R"]
    stage_at: int

    def context(self, stride: int) -> Addressing:
        """All that does not change from round to round."""
        parts = (self.offsets, self.depth, self.ring_at, self.low, self.fill)
        count, taps = self.offsets.shape
        return Addressing(None, None, None, *(part.data_ptr() for part in parts), None, 0, count, 0, taps, stride, self.stage_at)


@dataclass(frozen=True)
class Packed:
    """Elements of B streams: their slots, the first one of each, the one after the last, and the packed row of the first."""

    slots: Int64[Tensor, "B"]
    start: Int64[Tensor, "B"]
    stop: Int64[Tensor, "B"]
    offset: Int64[Tensor, "B"]

    def elements(self) -> Elements:
        return Elements(self.slots.data_ptr(), self.start.data_ptr(), self.stop.data_ptr(), self.offset.data_ptr())


@dataclass(frozen=True)
class Multiplication:
    """What windows are multiplied by: panels of a weight, or one number per tap and channel, and a bias; `rectified` or not."""

    weight: Float[Tensor, "P K W"] | Float[Tensor, "k C"]
    bias: Float[Tensor, "N"]
    depthwise: bool
    rectified: bool

    @property
    def inner(self) -> int:
        """Numbers of a window."""
        return self.weight.numel() if self.depthwise else self.weight.shape[1]

    @property
    def columns(self) -> int:
        """Numbers of a result."""
        return self.bias.shape[0]

    @property
    def work(self) -> int:
        """Multiply-adds of a row, or what costs as much."""
        return 4 * self.inner if self.depthwise else self.inner * self.columns


class Kernels(NamedTuple):
    """The addresses of the functions."""

    product: int
    depthwise: int
    addresses: int
    retire: int


def multiplied_at_once(work: int) -> int:
    """Of rows of so many multiply-adds each: how many are worth a thread's while."""
    return max(1, SHARE // max(1, work))


def addressed_at_once(streams: int, addresses: int) -> int:
    """Of streams that have so many addresses together."""
    return max(1, ADDRESSED * streams // max(1, addresses))


def copied_at_once(streams: int, numbers: int) -> int:
    """Of streams that have so many numbers together."""
    return max(1, COPIED * streams // max(1, 4 * numbers))


class Library:
    """The kernels for one instruction set. Tensors are float32 on the host; of those that are written, and of columns of integers,
    the numbers lie side by side."""

    def __init__(self, path: Path) -> None:
        own = ctypes.CDLL(str(path))
        own.lanes.restype = ctypes.c_int64
        self.width = 2 * own.lanes()
        """Columns of a panel of a weight."""
        functions = (own.product, own.depthwise, own.addresses, own.retire)
        self.kernels = Kernels(*(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions))
        self._parallel_for = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).torch_parallel_for
        self._parallel_for.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 2
        self._parallel_for.restype = ctypes.c_int32
        self._one_after_the_other = own.run
        self._one_after_the_other.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
        self._one_after_the_other.restype = ctypes.c_int32
        self._share_address = ctypes.cast(self._parallel_for, ctypes.c_void_p)

    def panels(self, weight: Float[Tensor, "K N"]) -> Float[Tensor, "P K W"]:
        """The weight as a `Multiplication` has it: panels of columns, the last one filled up with zeros."""
        depth, columns = weight.shape
        count = -(-columns // self.width)
        filled = weight.new_zeros(depth, count * self.width)
        filled[:, :columns] = weight
        return filled.view(depth, count, self.width).transpose(0, 1).contiguous()

    def multiply(
        self,
        by: Sequence[Multiplication],
        source: Float[Tensor, "S C"],
        addresses: Int[Tensor, "M*k"] | None,
        out: Float[Tensor, "M N"],
        added: Float[Tensor, "M N"] | None = None,
        rectified: bool = False,
    ) -> Float[Tensor, "M N"]:
        """Windows multiplied into `out`; then `added` is added, and that rectified or not. A window is some rows of the source,
        window after window at `addresses`, or one row after the other. Of several factors, each has its part of the channels."""
        source, added = _side_by_side(source), None if added is None else _side_by_side(added)
        if len(by) == 1:
            self._multiply(by[0], source, addresses, out, added, rectified)
            return out
        addends = [None] * len(by) if added is None else added.chunk(len(by), 1)
        for part, columns, made, addend in zip(by, source.chunk(len(by), 1), out.chunk(len(by), 1), addends, strict=True):
            self._multiply(part, columns, addresses, made, addend, rectified)
        return out

    def _multiply(
        self, by: Multiplication, source: Tensor, addresses: Tensor | None, out: Tensor, added: Tensor | None, rectified: bool
    ) -> None:
        depth = source.shape[1]
        context = Product(
            source.data_ptr(),
            by.weight.data_ptr(),
            by.bias.data_ptr(),
            None if added is None else added.data_ptr(),
            out.data_ptr(),
            None if addresses is None else addresses.data_ptr(),
            source.stride(0),
            0 if added is None else added.stride(0),
            out.stride(0),
            by.inner // depth,
            depth,
            by.columns,
            by.rectified + 2 * rectified,
        )
        self._share(self.kernel(by), context, out.shape[0], multiplied_at_once(by.work))

    def kernel(self, by: Multiplication) -> int:
        """The address of the one that multiplies so."""
        return self.kernels.depthwise if by.depthwise else self.kernels.product

    def run(self, calls: ctypes.Array[Call]) -> None:
        """All of them, one after the other."""
        if self._one_after_the_other(ctypes.addressof(calls), len(calls), self._share_address):
            raise RuntimeError(NOT_SHARED)

    def addresses(
        self, readings: Readings, out: Packed, rows: int, into: Packed, stride: int, limit: Int64[Tensor, "R B"] | None
    ) -> list[Int[Tensor, "M*k"]]:
        """Per reading, the rows that the windows of the `rows` output elements `out` read among the elements `into`, window after
        window. `limit` says how many elements of the input are data, where streams end."""
        streams, (count, taps) = out.slots.shape[0], readings.offsets.shape
        found = torch.empty(count, rows * taps, dtype=torch.int32)
        context = readings.context(stride)
        written, read = out.elements(), into.elements()
        context.found, context.out, context.into = found.data_ptr(), ctypes.addressof(written), ctypes.addressof(read)
        context.limit = None if limit is None else limit.data_ptr()
        context.streams, context.rows = streams, rows
        self._share(self.kernels.addresses, context, streams, addressed_at_once(streams, found.numel()))
        return list(found.unbind())

    def retire(self, rows: Float[Tensor, "M C"], ring: Float[Tensor, "slots_depth C"], depth: int, packed: Packed) -> None:
        """Copies the last `depth` at most of every stream's packed rows into its ring."""
        channels, streams = rows.shape[1], packed.slots.shape[0]
        elements = packed.elements()
        context = Retirement(rows.data_ptr(), ring.data_ptr(), ctypes.addressof(elements), depth, channels)
        self._share(self.kernels.retire, context, streams, copied_at_once(streams, rows.numel()))

    def _share(self, kernel: int | None, context: ctypes.Structure, count: int, grain: int) -> None:
        """Calls the kernel for all of `count`, `grain` at least by each thread."""
        if self._parallel_for(0, count, grain, kernel, ctypes.addressof(context)):
            raise RuntimeError(NOT_SHARED)


def _side_by_side(rows: Float[Tensor, "M C"]) -> Float[Tensor, "M C"]:
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def for_this_processor() -> str | None:
    """Which library there should be; None where none is built."""
    return VARIANTS.get((platform.machine(), torch.backends.cpu.get_cpu_capability()))


def library() -> Library | None:
    """The kernels for this processor. None where the package was built without any, or where they do not compute as torch does."""
    return None if _alone.get() else _loaded()


@contextmanager
def torch_alone() -> Iterator[None]:
    """What is converted within computes with torch's kernels."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


_alone: ContextVar[bool] = ContextVar("torch_alone", default=False)


@cache
def _loaded() -> Library | None:
    variant = for_this_processor()
    if variant is None:
        return None
    path = Path(__file__).parent / f"_rows_{variant}.so"
    try:
        found = Library(path)
    except (OSError, AttributeError) as error:
        log.warning("kernels_not_loaded", path=path.name, reason=str(error))
        return None
    if not _computes(found):
        log.warning("kernels_not_used", path=path.name, reason="they compute something else than torch does")
        return None
    return found


def _computes(found: Library) -> bool:
    """Whether a product, a depthwise one and a ring come out as they should."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(50, 5, generator=generator)
    at = torch.randint(0, 50, (29 * 3,), generator=generator, dtype=torch.int32)
    weight, bias = torch.randn(15, 37, generator=generator), torch.randn(37, generator=generator)
    windows = source[at.long()].view(29, 15)
    expected = torch.relu(windows @ weight + bias)
    product = Multiplication(found.panels(weight), bias, False, True)
    made = found.multiply([product], source, at, torch.empty(29, 37))
    depthwise = Multiplication(weight[:3, :5].contiguous(), bias[:5], True, False)
    each = found.multiply([depthwise], source, at, torch.empty(29, 5))
    ring = torch.zeros(2 * 4, 5)
    found.retire(source[:6], ring, 4, Packed(*(torch.tensor([number]) for number in (1, 3, 9, 0))))
    return (
        torch.allclose(made, expected, atol=1e-4)
        and torch.allclose(each, (windows.view(29, 3, 5) * weight[:3, :5]).sum(1) + bias[:5], atol=1e-4)
        and torch.equal(ring[4:], source[[5, 2, 3, 4]])
    )
